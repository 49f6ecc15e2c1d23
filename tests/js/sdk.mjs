// Sends events to a node with the public `cloudevents` package and reads them back with it.
// Usage: node sdk.mjs NODE_URL STREAM. Prints one line of JSON: what was checked. Exits non-zero on the first difference.
import assert from "node:assert/strict";
import { CloudEvent, HTTP } from "cloudevents";

const [node, stream] = process.argv.slice(2);
const events = `${node}/streams/${stream}/events`;

const time = "2026-03-01T12:00:00.120Z";
const make = (id, more) => new CloudEvent({ id, source: "/js/sdk", type: "sdk.test", time, ...more });
const sent = [
  make("object", { datacontenttype: "application/json", data: { a: [1, 2.5, null, true], text: "grüße \u2028 🌊" } }),
  make("text", { datacontenttype: "text/plain", data: "plain text\nwith lines" }),
  make("bytes", { datacontenttype: "application/octet-stream", data: Uint8Array.from({ length: 256 }, (_, i) => i) }),
  make("none", {}),
  make("attributes", {
    datacontenttype: "application/json", dataschema: "https://acme.example/s#1", subject: "s/1", partitionkey: "k",
    count: -7, flag: true, data: { deep: { er: [] } },
  }),
];

async function post(headers, body) {
  const answer = await fetch(events, { method: "POST", headers, body });
  const text = await answer.text();
  assert.ok(answer.ok, `${answer.status} ${text}`);
  return JSON.parse(text);
}

async function range(accept, from) {
  const answer = await fetch(`${events}?from=${from}`, { headers: { accept } });
  assert.equal(answer.status, 200);
  return { type: answer.headers.get("content-type"), text: await answer.text() };
}

function same(got, want, typed) {
  assert.ok(got.flowposition && got.flowtime);
  for (const name of ["id", "source", "type", "specversion", "datacontenttype", "dataschema", "subject", "partitionkey"]) {
    assert.equal(got[name], want[name], `${want.id}: ${name}`);
  }
  assert.equal(new Date(got.time).getTime(), new Date(want.time).getTime());
  if (typed) {
    assert.equal(got.count, want.count);
    assert.equal(got.flag, want.flag);
  }
  if (want.data instanceof Uint8Array) {
    assert.deepEqual(Buffer.from(got.data_base64, "base64"), Buffer.from(want.data), `${want.id}: bytes`);
  } else {
    assert.deepEqual(got.data, want.data, `${want.id}: data`);
  }
}

// Reads what was stored from `from` on in every form, parsed by the package.
async function check(from, typed) {
  const batch = await range("application/cloudevents-batch+json", from);
  const forms = [HTTP.toEvent({ headers: { "content-type": batch.type }, body: batch.text })];
  const lines = (await range("application/x-ndjson", from)).text.split("\n").filter(Boolean);
  forms.push(lines.map((body) => HTTP.toEvent({ headers: { "content-type": "application/cloudevents+json" }, body })));
  for (const got of forms) {
    assert.equal(got.length, sent.length);
    got.forEach((each, i) => same(each, sent[i], typed));
  }
}

// Structured.
for (const each of sent) {
  const { headers, body } = HTTP.structured(each);
  await post(headers, body);
}
await check(1, true);

// Binary: the same ids and sources are duplicates of what is stored, so other ids. Headers know only strings.
const binary = sent.map((each) => each.cloneWith({ id: `binary-${each.id}` }));
for (const each of binary) {
  const { headers, body } = HTTP.binary(each);
  await post(headers, body);
}
sent.forEach((each, i) => { sent[i] = binary[i]; });
// The package gives an event without data a JSON content type in binary mode; that is then its attribute.
sent[3] = sent[3].cloneWith({ datacontenttype: "application/json; charset=utf-8" });
await check(1 + sent.length, false);

// Batch.
const batch = binary.map((each) => each.cloneWith({ id: `batch-${each.id}` }));
const answer = await post({ "content-type": "application/cloudevents-batch+json" }, JSON.stringify(batch));
assert.equal(answer.count, batch.length);
sent.forEach((each, i) => { sent[i] = batch[i]; });
await check(1 + 2 * sent.length, true);

console.log(JSON.stringify({ events: 3 * sent.length }));
