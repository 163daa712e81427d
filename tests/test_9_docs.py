"The documentation can be built: nbdev's processing of every notebook, and a page for each."
from conftest import NBS, python


def test_preview_has_a_page_for_every_notebook(copy):
    python("import runpy; runpy.run_path('scripts/docs_preview.py', run_name='__main__')", cwd=copy)
    pages = {p.stem for p in (copy / "_docs").glob("*.html")}
    assert {p.stem for p in NBS.glob("*.ipynb")} <= pages
