"""What a real language model costs, made here: a Llama as wide as SmolLM2, of which few layers are left, and its
vocabulary of 49,152 tokens."""
import torch


def big_tokenizer():
    "A byte-level tokenizer with 49,152 tokens."
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast
    letters = sorted(pre_tokenizers.ByteLevel.alphabet(), reverse=True)  # those of words, with a blank, come early
    pairs = [(a, b) for a in letters for b in letters][: 49_152 - 1 - len(letters)]
    vocab = {w: i for i, w in enumerate(dict.fromkeys([*letters, *(a + b for a, b in pairs)]))}
    tokenizer = Tokenizer(models.BPE(vocab, pairs))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken("<end>", special=True)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", pad_token="<end>")


def cut_model(layers=2):
    "A Llama of few layers, with random weights."
    from transformers import LlamaConfig, LlamaForCausalLM
    shape = dict(hidden_size=576, intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3)
    config = LlamaConfig(vocab_size=49_152, num_hidden_layers=layers, tie_word_embeddings=True, eos_token_id=None,
                         bos_token_id=None, max_position_embeddings=8192, **shape)
    torch.manual_seed(0)
    return LlamaForCausalLM(config)


def adapters():
    "Settings of LoRA."
    from peft import LoraConfig
    return LoraConfig(r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM")
