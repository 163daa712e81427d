"`python -m ad_distill`: the command line."
from ad_distill.cli.main import main

if __name__ == "__main__": main()
