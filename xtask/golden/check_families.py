"""Compares what `opencharacter export` writes of every family with transformers, peft and llama.cpp.

Usage: check_families.py OPENCHARACTER [LLAMA_CPP_MODELS]

Makes a small random model of each family with a tokenizer of its kind and a random LoRA adapter, exports it in every
format, and checks: peft loads the adapter; transformers loads the merged folder, with the logits of peft's own merge and
the source's tokens; llama.cpp loads each GGUF, with those tokens, that chat and the same likeliest tokens; a folder made
from the GGUF is the same model again.

LLAMA_CPP_MODELS is the folder `models` of llama.cpp's sources, whose vocabularies are real ones: a GGUF with each goes
to a folder and back, and llama.cpp must still find the tokens that it found before.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import unicodedata

import torch
from gguf import GGUFReader, GGUFWriter
from peft import PeftModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config

from check_export import LlamaCpp, check, finish, gguf_tensors, log_probs, same_log_probs
from make_golden import (
    LINEAR_SCALING, LLAMA3_SCALING, SPECIAL, mixed_text, random_adapter, trained_byte_level, trained_sentence_piece,
)

SHAPE = dict(vocab_size=800, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=512, bos_token_id=1, eos_token_id=2)
FAMILIES = {
    "llama2": (LlamaConfig(**SHAPE | dict(num_key_value_heads=4)), "sentencepiece"),
    "llama2-linear": (LlamaConfig(**SHAPE, rope_parameters=LINEAR_SCALING, tie_word_embeddings=True), "smollm"),
    "llama3": (LlamaConfig(**SHAPE, rope_parameters=LLAMA3_SCALING), "llama-bpe"),
    "llama-biases": (LlamaConfig(**SHAPE, attention_bias=True, mlp_bias=True), "gpt-2"),
    "mistral": (MistralConfig(**SHAPE, sliding_window=64), "sentencepiece"),
    "qwen2": (Qwen2Config(**SHAPE, tie_word_embeddings=True), "qwen2"),
    "qwen2-untied-linear": (Qwen2Config(**SHAPE, rope_parameters=LINEAR_SCALING, tie_word_embeddings=False), "qwen2"),
    "qwen3": (Qwen3Config(**SHAPE, head_dim=32, tie_word_embeddings=False), "qwen2"),
    "qwen3-tied": (Qwen3Config(**SHAPE, head_dim=16, tie_word_embeddings=True), "default"),
}
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ message['content'] + eos_token }}{% else %}[{{ message['role'] }}] {{ message['content'] }}:{% endif %}{% endfor %}"
)
MESSAGES = [{"role": "user", "content": " Why the 12 lamps? "}, {"role": "assistant", "content": "It's naïve."},
            {"role": "user", "content": "And \"now\"?\n"}]
BEGINS = {"sentencepiece", "llama-bpe"}
opencharacter = sys.argv[1]
texts = mixed_text()


def tokenizer_json(kind):
    if kind == "sentencepiece":
        return trained_sentence_piece()[0]
    if kind != "smollm":
        return trained_byte_level(kind, texts)
    tokenizer = Tokenizer(models.BPE())
    digits, words = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, words])
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(
        texts, trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    )
    return tokenizer


def write_source(folder, config, kind):
    """The model's folder and, under `adapter`, its adapter, whose place is returned."""
    torch.manual_seed(len(str(folder)))
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Large enough that no part does nothing, and small enough that rounding stays rounding.
            parameter.copy_(torch.randn_like(parameter) * (0.12 if parameter.dim() == 2 else 0.2))
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    model.save_pretrained(folder)
    tokenizer = tokenizer_json(kind)
    if kind != "sentencepiece":
        tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
                "add_bos_token": kind in BEGINS}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "chat_template.jinja").write_text(TEMPLATE, encoding="utf-8")
    random_adapter(model, 4, folder, rank_stabilised=folder.name == "llama2")
    return folder / "adapter"


def export(to, model, out, *arguments):
    command = [opencharacter, "export", "--to", to, "--model", str(model), "--out", str(out), *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, (command, result.stderr)
    return out


def load(folder):
    model, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    return AutoTokenizer.from_pretrained(folder), model.eval()


def encode(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


def same_folder(name, folder, expected, source):
    tokenizer, model = load(folder)
    different = sum(encode(tokenizer, text) != source.encode(text, add_special_tokens=False).ids for text in texts)
    check(f"{name}: texts with other tokens than the source's in transformers, of {len(texts)}", different, 0)
    sequence = encode(tokenizer, "\n".join(texts))[:90]
    difference = (log_probs(model, sequence) - log_probs(expected, sequence)).abs().max().item()
    check(f"{name}: largest difference of a log-probability from peft's merge", difference, 2e-4)
    return tokenizer, model


def same_gguf(name, path, tokenizer, merged, bound):
    gguf_tensors(name, GGUFReader(path), merged)
    server = LlamaCpp(path)
    # llama.cpp leaves out canonical composition, which Qwen2's tokenizer does.
    composed = [text for text in texts if unicodedata.is_normalized("NFC", text)]
    different = sum(server.tokens(text) != encode(tokenizer, text) for text in composed)
    check(f"{name}: texts with other tokens in llama.cpp, of {len(composed)}", different, 0)
    rendered = server.ask("/apply-template", {"messages": MESSAGES})["prompt"]
    expected = tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True)
    # llama.cpp leaves out a beginning that it will put before the tokens.
    assert rendered.removeprefix("<s>") == expected.removeprefix("<s>"), (rendered, expected)
    begin = [tokenizer.bos_token_id]
    spoken = [encode(tokenizer, text)[:48] for text in (expected, "\n".join(texts), "".join(texts[200:]))]
    sequences = [(begin + tokens, range(3, len(tokens), 5)) for tokens in spoken]
    same_log_probs(name, server, sequences, merged, bound)


def family(name, config, kind, work):
    folder = work / name
    adapter = write_source(folder, config, kind)
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    copied = export("peft", folder, work / f"{name}-adapter", "--adapter", adapter)
    merged = PeftModel.from_pretrained(base, copied).merge_and_unload().eval()
    source = Tokenizer.from_file(str(folder / "tokenizer.json"))
    adapted = ("--adapter", adapter, "--type")
    out = export("safetensors", folder, work / f"{name}-f32", *adapted, "f32")
    tokenizer, exported = same_folder(f"{name}, folder", out, merged, source)
    # llama.cpp rounds activations to 8 bits where weights have 8; keys and values to 16 everywhere.
    for kind, bound in (("f32", 1e-2), ("f16", 1e-2), ("q8_0", 1e-1)):
        path = export("gguf", folder, work / f"{name}-{kind}.gguf", *adapted, kind)
        same_gguf(f"{name}, {kind} GGUF", path, tokenizer, exported, bound)
    again = export("safetensors", work / f"{name}-f32.gguf", work / f"{name}-again", "--type", "f32")
    same_folder(f"{name}, folder from GGUF", again, merged, source)
    ollama = export("ollama", folder, work / f"{name}-ollama", *adapted, "f16")
    same = (ollama / "model.gguf").read_bytes() == (work / f"{name}-f16.gguf").read_bytes()
    check(f"{name}: Ollama's GGUF is another", not same, 0)
    assert "FROM ./model.gguf" in (ollama / "Modelfile").read_text(encoding="utf-8")


def with_weights(vocabulary, path):
    """llama.cpp's vocabulary-only GGUF `vocabulary`, as a model of two blocks whose weights do not matter."""
    fields = GGUFReader(vocabulary).fields
    writer = GGUFWriter(path, "llama")
    tokens = fields["tokenizer.ggml.tokens"].contents()
    for add, number in ((writer.add_block_count, 1), (writer.add_context_length, 512), (writer.add_embedding_length, 32),
                        (writer.add_feed_forward_length, 32), (writer.add_head_count, 1),
                        (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_vocab_size, len(tokens))):
        add(number)
    for key, field in fields.items():
        if key.startswith("tokenizer.") and key != "tokenizer.chat_template":
            kind = field.types[0]
            writer.add_key_value(key, field.contents(), kind, sub_type=field.types[-1] if len(field.types) > 1 else None)
    writer.add_chat_template(TEMPLATE)
    square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
    shapes = {"token_embd": (len(tokens), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
    generator = torch.Generator().manual_seed(1)
    for name, shape in (shapes | {f"blk.0.{name}": (32, 32) for name in square}).items():
        writer.add_tensor(f"{name}.weight", torch.randn(shape, generator=generator).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def real_vocabulary(vocabulary, work):
    name = vocabulary.stem
    original = work / f"{name}.gguf"
    with_weights(vocabulary, original)
    folder = export("safetensors", original, work / name, "--type", "f32")
    back = export("gguf", folder, work / f"{name}-back.gguf", "--type", "f32")
    theirs = pathlib.Path(f"{vocabulary}.inp").read_text(encoding="utf-8").split("\n__ggml_vocab_test__\n")
    all_texts = [text for text in theirs + texts if text and unicodedata.is_normalized("NFC", text)]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    before, after = LlamaCpp(original), LlamaCpp(back)
    expected = [before.tokens(text) for text in all_texts]
    check(f"{name}: texts with other tokens after the way back, of {len(all_texts)}",
          sum(after.tokens(text) != tokens for text, tokens in zip(all_texts, expected)), 0)
    check(f"{name}: texts with other tokens in transformers, of {len(all_texts)}",
          sum(encode(tokenizer, text) != tokens for text, tokens in zip(all_texts, expected)), 0)


with tempfile.TemporaryDirectory() as temporary:
    work = pathlib.Path(temporary)
    for name, (config, kind) in FAMILIES.items():
        family(name, config, kind, work)
    if len(sys.argv) > 2:
        for name in ("llama-spm", "llama-bpe", "qwen2"):
            real_vocabulary(pathlib.Path(sys.argv[2]) / f"ggml-vocab-{name}.gguf", work)
finish()
