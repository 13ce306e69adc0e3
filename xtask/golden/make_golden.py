"""Makes the golden fixtures of opencharacter-nn with PyTorch, transformers, peft and llama.cpp.

Usage: make_golden.py EMBEDDED_GGUF OUTPUT_FOLDER

small_NAME/         a random model as transformers saves it, a random LoRA adapter as peft saves it, and golden.safetensors:
                    logits, loss and every LoRA gradient of two sequences. All but small_llama also have
                    weight_gradients.safetensors, every weight's gradient in full fine-tuning, and model.gguf, the same
                    model as llama.cpp's converter writes it. small_llama has preference.safetensors: DPO's loss and
                    LoRA gradients over two pairs. The adapter of small_llama2 is rank-stabilised.
rope_scaling.json   RoPE settings as config.json spells them, with transformers' frequencies.
quantised.gguf      random blocks of each type of weights, and quantised.safetensors with what they stand for.
tokenizers/         per pre-tokenizer a GGUF without weights, with a vocabulary trained on mixed_text.json; tokenizer.json
                    of the SentencePiece one; text_hashes.json: tokens of each text of mixed_text.json, on which Hugging
                    Face tokenizers and llama.cpp agree.
mixed_text.json     200 lines of code, emoji, CJK and odd spaces, and 60 texts of several lines, written by this script.
embedded.json       llama.cpp's tokens of those texts; transformers' logits (its own GGUF dequantisation) for a prompt;
                    transformers' rendering of a conversation.
"""

import collections
import hashlib
import itertools
import json
import pathlib
import random
import sys
import tempfile
import unicodedata
import urllib.request

import gguf as gguf_py
import numpy
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

LLAMA3_SCALING = {
    "rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
SMALL = dict(vocab_size=64, hidden_size=32, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256)
LINEAR_SCALING = {"rope_type": "linear", "rope_theta": 20000.0, "factor": 2.5}
FAMILIES = {
    "small_llama2": LlamaConfig(**SMALL | dict(num_hidden_layers=1, num_key_value_heads=4), rms_norm_eps=1e-5,
                                tie_word_embeddings=False),
    "small_llama3": LlamaConfig(**SMALL, rms_norm_eps=1e-5, rope_parameters=LLAMA3_SCALING, tie_word_embeddings=False),
    "small_llama_biases": LlamaConfig(**SMALL, rms_norm_eps=1e-5, attention_bias=True, mlp_bias=True,
                                      rope_parameters=LINEAR_SCALING, tie_word_embeddings=False),
    "small_mistral": MistralConfig(**SMALL, rms_norm_eps=1e-5, sliding_window=5, tie_word_embeddings=False),
    "small_qwen2": Qwen2Config(**SMALL, rms_norm_eps=1e-6, tie_word_embeddings=True, use_sliding_window=False),
    "small_qwen3": Qwen3Config(**SMALL, rms_norm_eps=1e-6, head_dim=12, tie_word_embeddings=False),
}


def random_model(config):
    """Weights far from their initial values, so that no part of the model is close to doing nothing."""
    model = AutoModelForCausalLM.from_config(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 2 else 0.2))
            if name.endswith("norm.weight"):
                parameter.add_(1.0)
    return model


def random_adapter(model, rank, folder, rank_stabilised=False):
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(model, LoraConfig(r=rank, lora_alpha=6, use_rslora=rank_stabilised, target_modules=targets,
                                             task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    tuned.peft_config["default"].base_model_name_or_path = folder.name
    tuned.save_pretrained(folder / "adapter")
    (folder / "adapter/README.md").unlink()
    return tuned


def trained_loss(logits, tokens, trained):
    per_token = torch.nn.functional.cross_entropy(logits[:-1], tokens[1:], reduction="none")
    return (per_token * trained[1:]).sum()


def save(values, path):
    save_file({name: value.detach().contiguous() for name, value in values.items()}, path)


def adapter_golden(tuned, lengths, folder):
    """Logits, loss and gradients of the adapter; returns the sequences."""
    golden, sequences, loss = {}, [], torch.zeros(())
    for index, length in enumerate(lengths):
        tokens = torch.randint(0, 64, (1, length))
        trained = torch.rand(length) < 0.6
        trained[0] = False
        with torch.no_grad(), tuned.disable_adapter():
            golden[f"base_logits_{index}"] = tuned(tokens).logits[0]
        golden[f"logits_{index}"] = logits = tuned(tokens).logits[0]
        loss = loss + trained_loss(logits, tokens[0], trained)
        golden[f"tokens_{index}"] = tokens[0].to(torch.int64)
        golden[f"trained_{index}"] = trained.to(torch.int64)
        sequences.append((tokens, trained))
    loss.backward()
    golden["loss"] = loss.reshape(1)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            golden["gradient." + name.replace(".default", "")] = parameter.grad
    save(golden, folder / "golden.safetensors")
    return sequences


def weight_golden(model, sequences, folder):
    """Loss and gradients of full fine-tuning."""
    model.requires_grad_(True).zero_grad()
    loss = sum(trained_loss(model(tokens).logits[0], tokens[0], trained) for tokens, trained in sequences)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    save({"loss": loss.reshape(1)} | gradients, folder / "weight_gradients.safetensors")


def small_llama():
    folder = out / "small_llama"
    model = random_model(LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=128,
        tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    ))
    model.save_pretrained(folder)
    adapter_golden(random_adapter(model, 4, folder), [23, 9], folder)


def preference():
    """DPO's loss over two pairs, and its gradients, by autograd."""
    torch.manual_seed(20231207)
    folder = out / "small_llama"
    base = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, folder / "adapter", is_trainable=True)
    beta, fixture, ratios = 0.3, {}, []
    for pair in range(2):
        prompt, log_probs = torch.randint(0, 64, (5,)), []
        for index, length in enumerate([6 + pair, 9 - pair]):
            tokens = torch.cat([prompt, torch.randint(0, 64, (length,))])
            trained = torch.arange(len(tokens)) >= len(prompt)
            log_probs.append(-trained_loss(tuned(tokens[None]).logits[0], tokens, trained))
            fixture[f"tokens_{2 * pair + index}"] = tokens.to(torch.int64)
            fixture[f"trained_{2 * pair + index}"] = trained.to(torch.int64)
        ratios.append(log_probs[0] - log_probs[1])
    # Near the model's own, or the sigmoid would be flat.
    reference = torch.stack(ratios).detach() + torch.tensor([1.5, -2.0])
    loss = -torch.nn.functional.logsigmoid(beta * (torch.stack(ratios) - reference)).sum()
    loss.backward()
    fixture |= {"beta": torch.tensor([beta]), "reference": reference, "loss": loss.reshape(1)}
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            fixture["gradient." + name.replace(".default", "")] = parameter.grad
    save(fixture, folder / "preference.safetensors")


def family(name, config):
    folder = out / name
    torch.manual_seed(sum(name.encode()))
    # Weights that 16 bits hold exactly: the files are half as long, and safetensors and GGUF hold the same numbers.
    model = random_model(config).half()
    # Two files where the head is not tied: `model.safetensors.index.json` says which tensor lies where.
    model.save_pretrained(folder, max_shard_size="20KB" if name == "small_qwen3" else "1GB")
    if name == "small_llama2":
        # The first files of Llama 2 do not speak of key-value heads: each head has its own.
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        del config["num_key_value_heads"]
        (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    # Read back: `half` has rounded the rotary embedding's frequencies as well, which no file holds.
    model, plain = (AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32) for _ in range(2))
    write_gguf(model, folder / "model.gguf")
    tuned = random_adapter(model, 2, folder, rank_stabilised=name == "small_llama2")
    sequences = adapter_golden(tuned, [19, 7], folder)
    weight_golden(plain, sequences, folder)


GGUF_NAMES = {
    "embed_tokens": "token_embd", "lm_head": "output", "norm": "output_norm", "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm", "q_proj": "attn_q",
    "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "gate_proj": "ffn_gate", "up_proj": "ffn_up",
    "down_proj": "ffn_down",
}


def rope_factors(config):
    """What llama.cpp's converter writes as rope_freqs.weight: the frequencies without scaling over those with it."""
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, "cpu")
    size = 2 * len(scaled)
    return (1.0 / config.rope_parameters["rope_theta"] ** (torch.arange(0, size, 2) / size)) / scaled


def write_gguf(model, path):
    config = model.config
    architecture = "llama" if config.model_type == "mistral" else config.model_type
    writer = gguf_py.GGUFWriter(path, architecture)
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    if config.num_key_value_heads != config.num_attention_heads:
        writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_file_type(gguf_py.LlamaFileType.MOSTLY_F16)
    if architecture != "qwen2":
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
    if architecture == "llama":
        writer.add_rope_dimension_count(head_dim)
    if config.model_type == "mistral":
        writer.add_sliding_window(config.sliding_window)
    if config.rope_parameters["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf_py.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
    if config.rope_parameters["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", rope_factors(config).numpy().astype(numpy.float32))
    for name, parameter in model.named_parameters():
        parts = name.removeprefix("model.").split(".")
        kind = GGUF_NAMES[parts[-2]]
        value = parameter.detach().numpy()
        if architecture == "llama" and kind in ("attn_q", "attn_k"):
            # The rows of a rotary pair side by side.
            value = value.reshape(-1, 2, head_dim // 2, *value.shape[1:]).swapaxes(1, 2).reshape(value.shape)
        name = f"blk.{parts[1]}.{kind}.{parts[-1]}" if parts[0] == "layers" else f"{kind}.{parts[-1]}"
        writer.add_tensor(name, numpy.ascontiguousarray(value, numpy.float16 if value.ndim == 2 else numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def rope_scaling():
    """Each spelling of config.json with the frequencies that transformers gives it."""
    llama3 = {key: value for key, value in LLAMA3_SCALING.items() if key not in ("rope_type", "rope_theta")}
    spellings = [
        {"rope_theta": 500000.0},
        {"rope_theta": 10000.0, "rope_scaling": None},
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0}},
        {"rope_scaling": {"type": "linear", "factor": 2.5}},
        {"rope_theta": 20000.0, "rope_scaling": {"rope_type": "linear", "factor": 4.0}},
        {"rope_parameters": {"rope_type": "linear", "rope_theta": 5000.0, "factor": 2.0}},
        {"rope_theta": 500000.0, "rope_scaling": llama3 | {"rope_type": "llama3"}},
        {"rope_theta": 10000.0, "rope_scaling": llama3 | {"type": "llama3"}},
        {"rope_parameters": LLAMA3_SCALING},
    ]
    fixture = []
    for spelling in spellings:
        config = LlamaConfig(**SMALL, **json.loads(json.dumps(spelling)))
        rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
        fixture.append({"config": spelling, "frequencies": rotary.inv_freq.tolist()})
    (out / "rope_scaling.json").write_text(json.dumps(fixture, indent=1) + "\n", encoding="utf-8")


# Where the blocks of a type hold numbers of 16 bits; all other bits may be anything.
SCALES = {
    "BF16": [], "Q2_K": [80, 82], "Q3_K": [108], "Q4_0": [0], "Q4_1": [0, 2], "Q4_K": [0, 2], "Q5_0": [0],
    "Q5_1": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "Q8_0": [0],
}


def quantised():
    generator = numpy.random.default_rng(11)
    writer = gguf_py.GGUFWriter(out / "quantised.gguf", "llama")
    values = {}
    for layer, (name, places) in enumerate(SCALES.items()):
        kind = gguf_py.GGMLQuantizationType[name]
        elements, size = gguf_py.GGML_QUANT_SIZES[kind]
        if places:
            blocks = generator.integers(0, 256, (4, 256 // elements, size), dtype=numpy.uint8)
            for place in places:
                scale = generator.uniform(0.001, 0.01, (*blocks.shape[:2], 1)).astype(numpy.float16)
                blocks[:, :, place:place + 2] = scale.view(numpy.uint8)
            rows = blocks.reshape(4, -1)
        else:
            rows = gguf_py.quants.quantize(generator.normal(size=(4, 256)).astype(numpy.float32), kind)
        writer.add_tensor(f"blk.{layer}.attn_v.weight", rows, raw_dtype=kind)
        values[name] = torch.from_numpy(gguf_py.quants.dequantize(rows, kind))
    save(values, out / "quantised.safetensors")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


WORDS = "harbour lamp quarrel seven oatmeal Tuesday don't we've rivers' naïve café Zürich façade".split()
CJK = ["海が嫌いな灯台守", "灯台看守人讨厌大海", "등대지기는 바다를 싫어한다", "ทะเล", "Смотритель маяка", "φάρος", "منارة"]
EMOJI = ["🌊", "👩‍🚀", "🇳🇴", "👍🏽", "🧑‍🍳🔥", "❤️"]
CODE = [
    "fn main() { println!(\"{}\", 1_000 + 0x1F); }", "for i in range(10):  # loop",
    "\tif (a != b && c<=d) { return x->y[3]; }", "SELECT * FROM t WHERE id='42' -- ok", "<div class=\"a\">&nbsp;</div>",
    "{\"name\": \"Ada\", \"age\": 52, \"tags\": [1, 2.5e-3]}", "x = [i**2 for i in xs if i % 3 == 0]",
]


def mixed_lines():
    rng = random.Random(7)
    spaces = [" ", "  ", "   ", "\t", " \t ", "\u00a0", "\u3000", "\u200b"]
    lines = []
    for index in range(200):
        kind = index % 5
        if kind == 0:
            line = " ".join(rng.choices(WORDS, k=8)) + f", {rng.randint(0, 10**rng.randint(1, 9))}."
        elif kind == 1:
            line = rng.choice(CODE) + " " * rng.randint(0, 5)
        elif kind == 2:
            line = rng.choice(CJK) + rng.choice(EMOJI) + rng.choice(WORDS)
        elif kind == 3:
            line = rng.choice(spaces).join(rng.choices(WORDS, k=5)) + rng.choice(spaces)
        else:
            line = "".join(rng.choice([*WORDS, *EMOJI, *CJK, *spaces, "!?", "...", "3.14", "I'LL", "x²", "½", "\u0301e"]) for _ in range(7))
        lines.append(line)
    return lines


def texts_of_lines():
    """Paragraphs, lists and indented code: every way to end a line after and before everything else."""
    rng = random.Random(8)
    ends = ["\n", "\n\n", "\n\n\n", "\r\n", "\r\n\r\n", "\r", " \n", "  \n", "\t\n", " \n\n", "\n \n", " \r\n", " \r", "\u3000\n"]
    indents = ["", "", "", "", " ", "  ", "    ", "        ", "\t", "\t\t", " \t"]
    texts = ["\n", "\r\n", "\n\n", " \n", "\n ", "\t", "\n\t\n", "\r\n \r\n  "]
    while len(texts) < 60:
        usual, text = rng.choice(ends[:5]), rng.choice(["", "", "", *ends])
        for _ in range(rng.randint(2, 7)):
            line = rng.choice([
                " ".join(rng.choices(WORDS, k=3)) + rng.choice([".", "!?", "...", ",", ":", "", "", " 42"]),
                rng.choice(CODE), rng.choice(["- ", "* ", "12. ", "# ", "> "]) + rng.choice(WORDS),
                rng.choice(CJK) + rng.choice(["。", "", *EMOJI]), rng.choice(["}", "{", "});", "*/", "---", "```", "7", "'", "'s"]),
            ])
            text += rng.choice(indents) + line + rng.choice([usual, usual, *ends])
        texts.append(text if rng.random() < 0.5 else text.rstrip())
    return texts


def mixed_text():
    return mixed_lines() + texts_of_lines()


def post(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def llama_cpp_tokens(path, texts):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.n_ctx = 512
    server = xllamacpp.Server(parameters)
    return [
        post(server.listening_address + "/tokenize", {"content": text, "add_special": False, "parse_special": False})["tokens"]
        for text in texts
    ]


GPT_2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
PRE_TOKENIZERS = {
    "llama-bpe": [CONTRACTIONS + r"\p{N}{1,3}" + REST],
    "qwen2": [CONTRACTIONS + r"\p{N}" + REST],
    "gpt-2": [GPT_2],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT_2, r"\p{N}+", "[0-9][0-9][0-9]"],
}
SPECIAL = ["<unk>", "<s>", "</s>"]


def trained_byte_level(pre, texts):
    steps = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in PRE_TOKENIZERS[pre]]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(False, use_regex=False)])
    if pre == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=500, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    # Where a word ends is only seen where what it parts would merge, and what it leaves together does. Training never
    # joins what lies in two words, and seldom a mark with the line end after it.
    beside = {pair for text in texts for pair in itertools.pairwise(tokenizer.encode(text).tokens)}
    around_line_ends = [pair for pair in beside if "Ċ" in "".join(pair) or "č" in "".join(pair)]
    model = json.loads(tokenizer.to_str())["model"]
    vocabulary, merges = model["vocab"], [tuple(merge) for merge in model["merges"]]
    for pair in sorted(around_line_ends):
        merges.append(pair)
        vocabulary.setdefault("".join(pair), len(vocabulary))
    tokenizer.model = models.BPE(vocabulary, merges, ignore_merges=pre == "llama-bpe")
    return tokenizer


def trained_sentence_piece():
    """A vocabulary as SentencePiece makes them, of lines, and Hugging Face's reading of it: each way to halve a token, by
    score."""
    normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizer
    learner.pre_tokenizer = pre_tokenizers.Split(Regex("(?=\u2581)"), "merged_with_next")
    # The trainer chooses among equally frequent characters by chance.
    count = collections.Counter("".join(map(normalizer.normalize_str, mixed_lines())))
    alphabet = sorted(count, key=lambda character: (-count[character], character))[:70]
    trainer = trainers.BpeTrainer(vocab_size=260, initial_alphabet=alphabet, limit_alphabet=70, show_progress=False)
    learner.train_from_iterator(mixed_lines(), trainer)
    learned = sorted(learner.get_vocab().items(), key=lambda item: item[1])
    long = [token for token, _ in learned if len(token) > 1]
    pieces = [(token, 0.0, kind) for token, kind in zip(SPECIAL, (2, 3, 3))]
    pieces += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    pieces += [(token, -float(place), 1) for place, token in enumerate(long)]
    pieces += [(token, -1000.0 - place, 1) for place, (token, _) in enumerate(learned) if len(token) == 1]
    vocabulary = {token: place for place, (token, _, _) in enumerate(pieces)}
    merges = [
        (token[:middle], token[middle:])
        for token in long for middle in range(len(token) - 1, 0, -1)
        if token[:middle] in vocabulary and token[middle:] in vocabulary
    ]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizer
    tokenizer.decoder = decoders.Sequence([
        decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0),
    ])
    tokenizer.add_special_tokens(SPECIAL)
    return tokenizer, pieces


def write_vocabulary(path, add_tokenizer, tokens, with_weights):
    """A GGUF with a tokenizer; llama.cpp reads it only with the weights of a model, however small."""
    writer = gguf_py.GGUFWriter(path, "llama")
    writer.add_vocab_size(tokens)
    writer.add_block_count(1)
    writer.add_context_length(512)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(32)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    add_tokenizer(writer)
    if with_weights:
        square = ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
        shapes = {"token_embd": (tokens, 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.ffn_norm": (32,)}
        for name, shape in (shapes | {f"blk.0.{name}": (32, 32) for name in square}).items():
            writer.add_tensor(f"{name}.weight", numpy.zeros(shape, numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    if with_weights:
        writer.write_tensors_to_file()
    writer.close()


def byte_level_metadata(tokenizer, pre):
    parsed = json.loads(tokenizer.to_str())["model"]
    tokens = sorted(parsed["vocab"], key=parsed["vocab"].get)

    def add(writer):
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre(pre)
        writer.add_token_list(tokens)
        writer.add_token_types([3 if token in SPECIAL else 1 for token in tokens])
        writer.add_token_merges([" ".join(merge) for merge in parsed["merges"]])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)

    return add, len(tokens)


def sentence_piece_metadata(pieces):
    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        writer.add_token_list([token for token, _, _ in pieces])
        writer.add_token_scores([score for _, score, _ in pieces])
        writer.add_token_types([kind for _, _, kind in pieces])
        writer.add_bos_token_id(1)
        writer.add_eos_token_id(2)
        writer.add_unk_token_id(0)

    return add, len(pieces)


def small_tokenizers():
    folder, texts, hashes = out / "tokenizers", mixed_text(), {}
    folder.mkdir(exist_ok=True)
    cases = {}
    for pre in PRE_TOKENIZERS:
        tokenizer = trained_byte_level(pre, texts)
        cases[pre] = (tokenizer, *byte_level_metadata(tokenizer, pre))
    tokenizer, pieces = trained_sentence_piece()
    cases["sentencepiece"] = (tokenizer, *sentence_piece_metadata(pieces))
    (folder / "sentencepiece").mkdir(exist_ok=True)
    tokenizer.save(str(folder / "sentencepiece/tokenizer.json"), pretty=False)
    names = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": True}
    (folder / "sentencepiece/tokenizer_config.json").write_text(json.dumps(names) + "\n", encoding="utf-8")
    for name, (tokenizer, metadata, size) in cases.items():
        write_vocabulary(folder / f"{name}.gguf", metadata, size, with_weights=False)
        tokens = [tokenizer.encode(text, add_special_tokens=False).ids for text in texts]
        with tempfile.TemporaryDirectory() as temporary:
            whole = pathlib.Path(temporary) / "model.gguf"
            write_vocabulary(whole, metadata, size, with_weights=True)
            for text, expected, found in zip(texts, tokens, llama_cpp_tokens(whole, texts)):
                # llama.cpp does not compose characters, which Qwen2's own tokenizer does.
                composed = name != "qwen2" or unicodedata.is_normalized("NFC", text)
                assert found == expected or not composed, (name, text, expected, found)
        hashes[name] = [hashlib.sha256(",".join(map(str, ids)).encode()).hexdigest()[:12] for ids in tokens]
    (folder / "text_hashes.json").write_text(json.dumps(hashes, indent=0) + "\n", encoding="utf-8")


def embedded():
    texts = mixed_text()
    (out / "mixed_text.json").write_text(json.dumps(texts, ensure_ascii=False, indent=0) + "\n", encoding="utf-8")
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    messages = [
        {"role": "system", "content": "You are Ada Holm, a lighthouse keeper."},
        {"role": "user", "content": "Why do you hate the sea?"},
        {"role": "assistant", "content": "It took my brother."},
        {"role": "user", "content": "And the lamp?"},
    ]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    default = tokenizer.apply_chat_template(messages[1:2], tokenize=False, add_generation_prompt=True)
    tokens = tokenizer(rendered, add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        logits = model(torch.tensor([tokens])).logits[0]
    log_probs = torch.log_softmax(logits, -1)
    fixture = {
        "text_tokens": llama_cpp_tokens(gguf, texts),
        "messages": messages,
        "rendered": rendered,
        "rendered_without_system": default,
        "tokens": tokens,
        "last_logits": [round(value, 5) for value in logits[-1].tolist()[:2000]],
        "next_token_log_probs": [log_probs[i, tokens[i + 1]].item() for i in range(len(tokens) - 1)],
    }
    (out / "embedded.json").write_text(json.dumps(fixture), encoding="utf-8")


if __name__ == "__main__":
    gguf, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
    torch.manual_seed(20250127)
    small_llama()
    preference()
    for name, config in FAMILIES.items():
        family(name, config)
    rope_scaling()
    quantised()
    small_tokenizers()
    embedded()
