"""Compares what `opencharacter export` wrote with transformers, peft and llama.cpp.

Usage: check_export.py SOURCE.gguf ADAPTER DIALOGUES.jsonl SCORES.jsonl LINES.txt FOLDER GGUF...

    opencharacter score --adapter ADAPTER --dialogues DIALOGUES.jsonl --json > SCORES.jsonl
    opencharacter export --to safetensors --type f32 --adapter ADAPTER --out FOLDER
    opencharacter export --to gguf --type f16 --adapter ADAPTER --out GGUF

DIALOGUES holds rows {"messages": [...]} that end with one assistant message; LINES is tests/data/mixed_text.txt of
opencharacter-nn. transformers must load FOLDER and agree with peft's merge of the same adapter into the source and with
opencharacter's scores; llama.cpp must load each GGUF, give each line's tokens, render a chat, answer it, and agree on
log-probabilities.
"""

import json
import pathlib
import sys
import urllib.request

import numpy
import torch
from gguf import MODEL_ARCH, GGUFReader, GGMLQuantizationType, get_tensor_name_map, quants
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

source, adapter, folder = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[6]
dialogues = [json.loads(line)["messages"] for line in open(sys.argv[3], encoding="utf-8")]
scores = [json.loads(line) for line in open(sys.argv[4], encoding="utf-8")]
lines = [line.rstrip("\n") for line in open(sys.argv[5], encoding="utf-8")][:20]
assert len(dialogues) == len(scores) > 0, (len(dialogues), len(scores))
failures = []


def check(what, value, bound):
    print(f"{what}: {value:.2e} (bound {bound:.0e})")
    if not value <= bound:
        failures.append(what)


def encode(tokenizer, messages):
    prompt = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
    prompt = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    answer = tokenizer(messages[-1]["content"] + tokenizer.eos_token, add_special_tokens=False)["input_ids"]
    return prompt, answer


def log_probs(model, tokens):
    with torch.no_grad():
        return model(torch.tensor([tokens])).logits[0].log_softmax(-1)


def transformers_and_peft():
    tokenizer = AutoTokenizer.from_pretrained(folder)
    exported, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    base_tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    base = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=torch.float32)
    merged = PeftModel.from_pretrained(base, adapter).merge_and_unload().eval()
    expected, weights = dict(merged.named_parameters()), 0.0
    for name, weight in exported.named_parameters():
        weights = max(weights, (weight - expected[name]).abs().max().item() / expected[name].abs().max().item())
    check("largest difference of a weight from peft's, relative to the largest of its matrix", weights, 1e-6)

    worst_logit, worst_nll = 0.0, 0.0
    for messages, score in zip(dialogues, scores):
        prompt, answer = encode(tokenizer, messages)
        assert (prompt, answer) == encode(base_tokenizer, messages), "the tokenizers differ"
        rows = log_probs(exported.eval(), prompt + answer)
        worst_logit = max(worst_logit, (rows - log_probs(merged, prompt + answer)).abs().max().item())
        nll = -rows[len(prompt) - 1 : -1][torch.arange(len(answer)), torch.tensor(answer)].mean().item()
        assert len(answer) == score["tokens"], (len(answer), score)
        worst_nll = max(worst_nll, abs(nll - score["nll"]))
    check("largest difference of a log-probability from peft's merge", worst_logit, 1e-3)
    check("largest difference of an NLL from opencharacter's score", worst_nll, 1e-4)
    prompt = tokenizer.apply_chat_template(dialogues[0][:-1], add_generation_prompt=True, return_tensors="pt")
    answer = exported.generate(**prompt, max_new_tokens=40, do_sample=False)
    print("transformers answers:", tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :]))
    return tokenizer, exported


def gguf_tensors(path, reader, exported):
    """Every tensor is what llama.cpp's converter and its reference quantiser make of transformers' weights."""
    names = get_tensor_name_map(MODEL_ARCH.LLAMA, exported.config.num_hidden_layers)
    heads = {"q_proj": exported.config.num_attention_heads, "k_proj": exported.config.num_key_value_heads}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    equal = total = 0
    for name, weight in exported.named_parameters():
        tensor = tensors.pop(names.get_name(name, try_suffixes=(".weight", ".bias")))
        weight = weight.detach().numpy()
        for projection, count in heads.items():
            if projection in name:
                halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
        expected = quants.quantize(weight, GGMLQuantizationType(tensor.tensor_type))
        found = numpy.ascontiguousarray(tensor.data)
        expected, found = expected.view(numpy.uint8).ravel(), found.view(numpy.uint8).ravel()
        assert len(expected) == len(found), (name, len(expected), len(found))
        equal, total = equal + (expected == found).sum(), total + len(found)
    assert not tensors, list(tensors)
    check(f"{path}: bytes of tensors that are not those of gguf-py", 1 - equal / total, 1e-4)


def llama_cpp(path, tokenizer, exported, bound):
    import xllamacpp

    reader = GGUFReader(path)
    assert reader.fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    gguf_tensors(path, reader, exported)
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.n_ctx, parameters.n_parallel = 2048, 1
    server = xllamacpp.Server(parameters)

    def ask(endpoint, body):
        request = urllib.request.Request(server.listening_address + endpoint, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    different = [
        line
        for line in lines
        if ask("/tokenize", {"content": line})["tokens"] != tokenizer(line, add_special_tokens=False)["input_ids"]
    ]
    check(f"{path}: lines with other tokens, of {len(lines)}", len(different), 0)
    largest, total, count = 0.0, 0.0, 0
    for messages in dialogues:
        rendered = ask("/apply-template", {"messages": messages[:-1]})["prompt"]
        expected = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert rendered == expected, (rendered, expected)
        prompt, answer = encode(tokenizer, messages)
        rows = log_probs(exported, prompt + answer)
        # The server gives the distribution after a prompt's last token, so each position is a request.
        for position in range(0, len(answer), max(1, len(answer) // 8)):
            tokens = prompt + answer[:position]
            body = {"prompt": tokens, "n_predict": 1, "n_probs": 20, "temperature": 0, "cache_prompt": True}
            for entry in ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]:
                difference = abs(entry["logprob"] - rows[len(tokens) - 1, entry["id"]].item())
                largest, total, count = max(largest, difference), total + difference, count + 1
    check(f"{path}: mean difference of {count} log-probabilities from transformers'", total / count, bound)
    print(f"{path}: largest {largest:.2e}")
    chat = ask("/v1/chat/completions", {"messages": dialogues[0][:-1], "max_tokens": 40, "temperature": 0})
    print(f"{path}: answers: {chat['choices'][0]['message']['content']}")


tokenizer, exported = transformers_and_peft()
for path in sys.argv[7:]:
    # llama.cpp rounds activations to 8 bits as well where weights have 8, and to 16 where they have 16.
    llama_cpp(path, tokenizer, exported, 2e-1 if "q8_0" in path else 1e-2)
print("failed: " + "; ".join(failures) if failures else "all agree")
sys.exit(bool(failures))
