// A browser-grade EventSource client: connects once and lives through whatever the node does.
// Usage: node tail.mjs URL COUNT. Prints a line of JSON per message and per reconnection; ends after COUNT events.
import { EventSource } from "eventsource";

const [url, count] = process.argv.slice(2);
const source = new EventSource(url);
let seen = 0;
const say = (line) => process.stdout.write(`${JSON.stringify(line)}\n`);

source.onopen = () => say({ open: true });
source.onerror = (error) => {
  say({ error: error.code ?? "connection lost", closed: source.readyState === EventSource.CLOSED });
  if (source.readyState === EventSource.CLOSED) process.exit(1);
};
source.addEventListener("heartbeat", (message) => say({ heartbeat: JSON.parse(message.data), id: message.lastEventId }));
source.addEventListener("notice", (message) => say({ notice: JSON.parse(message.data) }));
source.onmessage = (message) => {
  say({ id: message.lastEventId, event: JSON.parse(message.data) });
  if (++seen === Number(count)) {
    source.close();
    process.exit(0);
  }
};
