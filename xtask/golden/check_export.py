"""Compares what `opencharacter export` wrote with transformers, peft and llama.cpp.

Usage: check_export.py [--answer PART] SOURCE.gguf ADAPTER DIALOGUES.jsonl SCORES.jsonl TEXTS.json FOLDER GGUF...

    opencharacter export --to gguf --type f32 --out SOURCE.gguf
    opencharacter score --model SOURCE.gguf --adapter ADAPTER --dialogues DIALOGUES.jsonl --json > SCORES.jsonl
    opencharacter export --to safetensors --type f32 --adapter ADAPTER --out FOLDER
    opencharacter export --to gguf --type f16 --adapter ADAPTER --out GGUF

DIALOGUES holds rows {"messages": [...]} that end with one assistant message; TEXTS is tests/data/mixed_text.json of
opencharacter-nn. transformers must load FOLDER and agree with peft's merge of the same adapter into the source and with
opencharacter's scores; llama.cpp must load each GGUF, give each text's tokens, render a chat, answer it, and agree on
log-probabilities. With PART, that must be in every answer to the first dialogue.
"""

import argparse
import json
import math
import pathlib
import sys
import urllib.request

import numpy
import torch
from gguf import MODEL_ARCH_NAMES, GGUFReader, GGMLQuantizationType, get_tensor_name_map, quants
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

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


class LlamaCpp:
    """llama.cpp's server with one model."""

    def __init__(self, path):
        import xllamacpp

        parameters = xllamacpp.CommonParams()
        parameters.model.path = str(path)
        parameters.n_ctx, parameters.n_parallel = 2048, 1
        self.server = xllamacpp.Server(parameters)
        self.letter = self.tokens("a")[-1]

    def ask(self, endpoint, body):
        request = urllib.request.Request(self.server.listening_address + endpoint, json.dumps(body).encode())
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request) as reply:
            return json.load(reply)

    def tokens(self, text):
        return self.ask("/tokenize", {"content": text})["tokens"]

    def next_token(self, tokens, count):
        """The `count` likeliest next tokens and their log-probabilities."""
        # The token drawn is a letter: with half a character the server would hold back its answer. The probabilities
        # are those before any bias.
        body = {"prompt": tokens, "n_predict": 1, "n_probs": count, "logit_bias": [[self.letter, 1000.0]]}
        found = self.ask("/completion", body)["completion_probabilities"][0]["top_logprobs"]
        return [(entry["id"], entry["logprob"]) for entry in found]


def check_answer(who, answer, part):
    print(f"{who} answers: {answer}")
    if part:
        check(f"{who}: {part!r} is not in its answer", part not in answer, 0)


def transformers_and_peft(source, adapter, folder, dialogues, scores, part):
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
    check_answer("transformers", tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :]), part)
    return tokenizer, exported


def gguf_tensors(path, reader, exported):
    """Every tensor is what llama.cpp's converter and its reference quantiser make of transformers' weights."""
    config = exported.config
    architecture = "llama" if config.model_type == "mistral" else config.model_type
    [kind] = [kind for kind, name in MODEL_ARCH_NAMES.items() if name == architecture]
    names = get_tensor_name_map(kind, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    equal = total = 0
    for name, weight in exported.named_parameters():
        stem, kind = name.rsplit(".", 1)
        tensor = tensors.pop(f"{names.get_name(stem)}.{kind}")
        weight = weight.detach().numpy()
        for projection, count in heads.items():
            if projection in name and architecture == "llama":
                halves = weight.reshape(count, 2, weight.shape[0] // count // 2, *weight.shape[1:])
                weight = halves.swapaxes(1, 2).reshape(weight.shape)
        expected = quants.quantize(weight, GGMLQuantizationType(tensor.tensor_type))
        found = numpy.ascontiguousarray(tensor.data)
        expected, found = expected.view(numpy.uint8).ravel(), found.view(numpy.uint8).ravel()
        assert len(expected) == len(found), (name, len(expected), len(found))
        equal, total = equal + (expected == found).sum(), total + len(found)
    if config.rope_parameters["rope_type"] == "llama3":
        scaled = exported.model.rotary_emb.inv_freq.numpy()
        plain = config.rope_parameters["rope_theta"] ** (-numpy.arange(len(scaled)) / len(scaled))
        difference = numpy.abs(tensors.pop("rope_freqs.weight").data / (plain / scaled) - 1).max()
        check(f"{path}: relative difference of RoPE factors", difference, 1e-5)
    assert not tensors, list(tensors)
    check(f"{path}: bytes of tensors that are not those of gguf-py", 1 - equal / total, 1e-4)


def same_log_probs(path, server, sequences, exported, bound):
    """llama.cpp's likeliest next tokens at some positions of `(tokens, positions)`, against transformers'."""
    differences, other_top = [], 0
    for tokens, positions in sequences:
        rows = log_probs(exported, tokens)
        # The server gives the distribution after a prompt's last token, so each position is a request.
        for position in positions:
            found = server.next_token(tokens[: position + 1], 20)
            differences += [abs(value - rows[position, token].item()) for token, value in found]
            best, second = rows[position].topk(2).values.tolist()
            # Two that are as good as equal may change places.
            other_top += found[0][0] != rows[position].argmax().item() and best - second > bound
    assert all(math.isfinite(difference) for difference in differences)
    mean = sum(differences) / len(differences)
    check(f"{path}: mean difference of {len(differences)} log-probabilities from transformers'", mean, bound)
    check(f"{path}: positions with another likeliest token", other_top, 0)
    print(f"{path}: largest {max(differences):.2e}")


def llama_cpp(path, tokenizer, exported, bound, texts, dialogues, part):
    reader = GGUFReader(path)
    assert reader.fields["tokenizer.chat_template"].contents() == tokenizer.chat_template
    gguf_tensors(path, reader, exported)
    server = LlamaCpp(path)
    different = [text for text in texts if server.tokens(text) != tokenizer(text, add_special_tokens=False)["input_ids"]]
    check(f"{path}: texts with other tokens, of {len(texts)}", len(different), 0)
    sequences = []
    for messages in dialogues:
        rendered = server.ask("/apply-template", {"messages": messages[:-1]})["prompt"]
        expected = tokenizer.apply_chat_template(messages[:-1], tokenize=False, add_generation_prompt=True)
        assert rendered == expected, (rendered, expected)
        prompt, answer = encode(tokenizer, messages)
        first = len(prompt) - 1
        sequences.append((prompt + answer, range(first, first + len(answer), max(1, len(answer) // 8))))
    same_log_probs(path, server, sequences, exported, bound)
    chat = server.ask("/v1/chat/completions", {"messages": dialogues[0][:-1], "max_tokens": 40, "temperature": 0})
    check_answer(path, chat["choices"][0]["message"]["content"], part)


def finish():
    print("failed: " + "; ".join(failures) if failures else "all agree")
    sys.exit(bool(failures))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--answer")
    for name in ("source", "adapter", "dialogues", "scores", "texts", "folder"):
        parser.add_argument(name, type=pathlib.Path)
    parser.add_argument("gguf", nargs="+")
    arguments = parser.parse_args()
    dialogues = [json.loads(line)["messages"] for line in open(arguments.dialogues, encoding="utf-8")]
    scores = [json.loads(line) for line in open(arguments.scores, encoding="utf-8")]
    texts = json.loads(arguments.texts.read_text(encoding="utf-8"))
    assert len(dialogues) == len(scores) > 0, (len(dialogues), len(scores))
    tokenizer, exported = transformers_and_peft(
        arguments.source, arguments.adapter, arguments.folder, dialogues, scores, arguments.answer
    )
    for path in arguments.gguf:
        # llama.cpp rounds activations to 8 bits as well where weights have 8, and to 16 where they have 16.
        llama_cpp(path, tokenizer, exported, 2e-1 if "q8_0" in path else 1e-2, texts, dialogues, arguments.answer)
    finish()


if __name__ == "__main__":
    main()
