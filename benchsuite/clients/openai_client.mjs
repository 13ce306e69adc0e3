// The `openai` npm package against a server: streamed and by schema.
//
// Usage: node openai_client.mjs http://127.0.0.1:8080/v1
import assert from "node:assert/strict";
import OpenAI from "openai";

const client = new OpenAI({ baseURL: process.argv[2], apiKey: "none", maxRetries: 0 });
const models = (await client.models.list()).data.map((model) => model.id);
const messages = [{ role: "user", content: "Name three colours." }];
const asked = { model: models[0], messages, max_tokens: 24, temperature: 0, seed: 1 };

let streamed = "";
for await (const chunk of await client.chat.completions.create({ ...asked, stream: true })) {
  streamed += chunk.choices[0]?.delta?.content ?? "";
}
const whole = await client.chat.completions.create(asked);
console.log("streamed:", streamed);
assert.equal(streamed, whole.choices[0].message.content);
assert.ok(whole.usage.total_tokens > 0);

const schema = { type: "object", properties: { colour: { type: "string", enum: ["red", "green"] } }, required: ["colour"], additionalProperties: false };
const reply = await client.chat.completions.create({ ...asked, response_format: { type: "json_schema", json_schema: { name: "colour", strict: true, schema } } });
const { colour } = JSON.parse(reply.choices[0].message.content);
assert.ok(["red", "green"].includes(colour));
console.log("by schema:", colour);

await assert.rejects(client.chat.completions.create({ ...asked, model: "nobody" }), OpenAI.NotFoundError);

// A client that leaves: the server goes on serving.
const leaving = await client.chat.completions.create({ ...asked, max_tokens: 400, stream: true });
for await (const _ of leaving) break;
leaving.controller.abort();
assert.ok((await client.chat.completions.create({ ...asked, max_tokens: 2 })).choices.length);
console.log("passed");
