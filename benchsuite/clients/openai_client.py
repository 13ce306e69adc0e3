"""The `openai` Python package against a server: streamed, by schema, as a character, with its errors.

Usage: openai_client.py http://127.0.0.1:8080/v1
"""

import json
import sys

import openai

client = openai.OpenAI(base_url=sys.argv[1], api_key="none", max_retries=0)
models = [model.id for model in client.models.list()]
print("models:", models)
question = [{"role": "user", "content": "Name three colours."}]

stream = client.chat.completions.create(
    model=models[0], messages=question, stream=True, max_tokens=24, seed=1, temperature=0,
    stream_options={"include_usage": True},
)
pieces, usage, finish = [], None, None
for chunk in stream:
    usage = chunk.usage or usage
    for choice in chunk.choices:
        pieces.append(choice.delta.content or "")
        finish = choice.finish_reason or finish
whole = client.chat.completions.create(model=models[0], messages=question, max_tokens=24, seed=1, temperature=0)
print("streamed:", "".join(pieces))
assert "".join(pieces) == whole.choices[0].message.content, "streamed and whole differ"
assert usage.completion_tokens == whole.usage.completion_tokens > 0 and finish in ("stop", "length")

schema = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer", "minimum": 0, "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
for streamed in (False, True):
    reply = client.chat.completions.create(
        model=models[0], messages=[{"role": "user", "content": "Invent a person."}], max_tokens=80, stream=streamed,
        response_format={"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}},
    )
    text = "".join(c.choices[0].delta.content or "" for c in reply) if streamed else reply.choices[0].message.content
    person = json.loads(text)
    assert set(person) == {"name", "age"} and isinstance(person["age"], int), person
print("by schema:", person)

several = client.chat.completions.create(model=models[0], messages=question, n=3, max_tokens=8, logprobs=True, top_logprobs=2)
assert len(several.choices) == 3
tokens = several.choices[0].logprobs.content
assert tokens and all(token.logprob <= 0 and len(token.top_logprobs) == 2 for token in tokens)
stopped = client.chat.completions.create(
    model=models[0], messages=[{"role": "user", "content": "Count: one two three four five six"}], stop=["three"], max_tokens=40
)
assert "three" not in stopped.choices[0].message.content
text = client.completions.create(model=models[0], prompt="Once upon a time", max_tokens=8, temperature=0)
assert text.choices[0].text and text.usage.prompt_tokens > 0
print("continued:", text.choices[0].text)

# What SillyTavern sends: several system messages, example turns, a prefill, samplers that nobody here knows.
tavern = client.chat.completions.create(
    model=models[0],
    messages=[
        {"role": "system", "content": "Write the next reply of Mara."},
        {"role": "system", "content": "[Example Chat]", "name": "system"},
        {"role": "system", "content": "Hello.", "name": "example_user"},
        {"role": "system", "content": "Hm.", "name": "example_assistant"},
        {"role": "system", "content": "[Start a new Chat]"},
        {"role": "user", "content": "Who are you?"},
        {"role": "assistant", "content": "I am Mara, and"},
    ],
    max_tokens=24, presence_penalty=0.1, frequency_penalty=0.1,
    extra_body={"min_p": 0.05, "top_k": 40, "typical_p": 1, "mirostat_mode": 0, "dynatemp": {"low": 1}, "custom_token_bans": ""},
)
print("prefilled: I am Mara, and" + tavern.choices[0].message.content)
assert not tavern.choices[0].message.content.startswith("I am Mara, and"), "the prefill is not repeated"

characters = [model for model in models if model.startswith("character/")]
if characters:
    greeting = client.chat.completions.create(model=characters[0], messages=[{"role": "system", "content": "It rains."}])
    print("greeting:", greeting.choices[0].message.content)
    answer = client.chat.completions.create(model=characters[0], messages=[{"role": "user", "content": "Who are you?"}], max_tokens=60)
    print("in character:", answer.choices[0].message.content)

for wrong, kind in (
    (dict(model="nobody", messages=question), openai.NotFoundError),
    (dict(model=models[0], messages=[]), openai.BadRequestError),
    (dict(model=models[0], messages=question, temperature=9), openai.BadRequestError),
    (dict(model=models[0], messages=[{"role": "user", "content": "word " * 9000}]), openai.BadRequestError),
):
    try:
        client.chat.completions.create(**wrong)
    except kind as error:
        assert error.body["message"], error
    else:
        raise SystemExit(f"{wrong} was answered")
print("passed")
