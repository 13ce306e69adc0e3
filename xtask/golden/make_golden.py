"""Makes the golden fixtures of opencharacter-nn with PyTorch, transformers, peft and llama.cpp.

Usage: make_golden.py EMBEDDED_GGUF OUTPUT_FOLDER

small_llama/        a random Llama of 3 blocks as transformers saves it, a random LoRA adapter as peft saves it, and
                    golden.safetensors: logits, loss and every LoRA gradient of two sequences.
mixed_text.txt      200 lines of code, emoji, CJK and odd spaces, written by this script.
embedded.json       llama.cpp's tokens of those lines; transformers' logits (its own GGUF dequantisation) for a prompt;
                    transformers' rendering of a conversation.
"""

import json
import pathlib
import random
import sys
import urllib.request

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

gguf, out = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])
torch.manual_seed(20250127)


def small_llama():
    folder = out / "small_llama"
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, rms_norm_eps=1e-5, max_position_embeddings=128,
        tie_word_embeddings=False, attention_bias=False, mlp_bias=False,
    )
    model = LlamaForCausalLM(config).float()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.randn_like(parameter) * (0.3 if parameter.dim() == 2 else 0.2))
            if parameter.dim() == 1:
                parameter.add_(1.0)
    model.save_pretrained(folder)
    targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
    tuned = get_peft_model(model, LoraConfig(r=4, lora_alpha=6, target_modules=targets, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for name, parameter in tuned.named_parameters():
            if "lora_" in name:
                parameter.copy_(torch.randn_like(parameter) * 0.2)
    tuned.save_pretrained(folder / "adapter")

    lengths = [23, 9]
    golden = {}
    loss = torch.zeros(())
    for index, length in enumerate(lengths):
        tokens = torch.randint(0, 64, (1, length))
        trained = torch.rand(length) < 0.6
        trained[0] = False
        with torch.no_grad(), tuned.disable_adapter():
            golden[f"base_logits_{index}"] = tuned(tokens).logits[0]
        logits = tuned(tokens).logits[0]
        golden[f"logits_{index}"] = logits.detach()
        per_token = torch.nn.functional.cross_entropy(logits[:-1], tokens[0, 1:], reduction="none")
        loss = loss + (per_token * trained[1:]).sum()
        golden[f"tokens_{index}"] = tokens[0].to(torch.int64)
        golden[f"trained_{index}"] = trained.to(torch.int64)
    loss.backward()
    golden["loss"] = loss.detach().reshape(1)
    for name, parameter in tuned.named_parameters():
        if "lora_" in name:
            golden["gradient." + name.replace(".default", "")] = parameter.grad
    save_file({name: value.contiguous() for name, value in golden.items()}, folder / "golden.safetensors")


def mixed_text():
    rng = random.Random(7)
    words = "harbour lamp quarrel seven oatmeal Tuesday don't we've rivers' naïve café Zürich façade".split()
    cjk = ["海が嫌いな灯台守", "灯台看守人讨厌大海", "등대지기는 바다를 싫어한다", "ทะเล", "Смотритель маяка", "φάρος", "منارة"]
    emoji = ["🌊", "👩‍🚀", "🇳🇴", "👍🏽", "🧑‍🍳🔥", "❤️"]
    code = [
        "fn main() { println!(\"{}\", 1_000 + 0x1F); }", "for i in range(10):\n".strip() + "  # loop",
        "\tif (a != b && c<=d) { return x->y[3]; }", "SELECT * FROM t WHERE id='42' -- ok", "<div class=\"a\">&nbsp;</div>",
        "{\"name\": \"Ada\", \"age\": 52, \"tags\": [1, 2.5e-3]}", "x = [i**2 for i in xs if i % 3 == 0]",
    ]
    spaces = [" ", "  ", "   ", "\t", " \t ", "\u00a0", "\u3000", "\u200b"]
    lines = []
    for index in range(200):
        kind = index % 5
        if kind == 0:
            line = " ".join(rng.choices(words, k=8)) + f", {rng.randint(0, 10**rng.randint(1, 9))}."
        elif kind == 1:
            line = rng.choice(code) + " " * rng.randint(0, 5)
        elif kind == 2:
            line = rng.choice(cjk) + rng.choice(emoji) + rng.choice(words)
        elif kind == 3:
            line = rng.choice(spaces).join(rng.choices(words, k=5)) + rng.choice(spaces)
        else:
            line = "".join(rng.choice([*words, *emoji, *cjk, *spaces, "!?", "...", "3.14", "I'LL", "x²", "½", "\u0301e"]) for _ in range(7))
        lines.append(line.replace("\n", " "))
    return lines


def post(address, body):
    request = urllib.request.Request(address, json.dumps(body).encode(), {"Content-Type": "application/json"})
    return json.load(urllib.request.urlopen(request))


def llama_cpp_tokens(lines):
    import xllamacpp

    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(gguf)
    parameters.n_ctx = 512
    server = xllamacpp.Server(parameters)
    return [
        post(server.listening_address + "/tokenize", {"content": line, "add_special": False, "parse_special": False})["tokens"]
        for line in lines
    ]


def embedded():
    lines = mixed_text()
    (out / "mixed_text.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
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
        "line_tokens": llama_cpp_tokens(lines),
        "messages": messages,
        "rendered": rendered,
        "rendered_without_system": default,
        "tokens": tokens,
        "last_logits": [round(value, 5) for value in logits[-1].tolist()[:2000]],
        "next_token_log_probs": [log_probs[i, tokens[i + 1]].item() for i in range(len(tokens) - 1)],
    }
    (out / "embedded.json").write_text(json.dumps(fixture), encoding="utf-8")


small_llama()
embedded()
