// The TypeScript SDK's client as a process that is told what to do: one request a line on stdin, its answer on stdout.
//
// Takes one argument, JSON: {"url"} or {"command", "args", "env"}, and {"mode": "auto" | "legacy"} where it is not to
// have its own way.

import { createInterface } from "node:readline";

import { Client, StreamableHTTPClientTransport } from "@modelcontextprotocol/client";
import { StdioClientTransport } from "@modelcontextprotocol/client/stdio";

console.log = console.debug = console.error; // the SDK's remarks; stdout is for answers

const { mode, url, ...command } = JSON.parse(process.argv.at(-1));
const transport = url ? new StreamableHTTPClientTransport(new URL(url)) : new StdioClientTransport(command);
const client = new Client({ name: "typescript", version: "1" }, mode && { versionNegotiation: { mode } });

const updates = [];
let wake = () => {};
client.setNotificationHandler("notifications/resources/updated", ({ params }) => {
  updates.push(params.uri);
  wake();
});

const verbs = {
  "tools/list": () => client.listTools(),
  "tools/call": (params) => client.callTool(params),
  "resources/list": () => client.listResources(),
  "resources/read": (params) => client.readResource(params),
  "prompts/list": () => client.listPrompts(),
  "prompts/get": (params) => client.getPrompt(params),
  subscribe: async ({ uri }) => {
    const isModern = client.getNegotiatedProtocolVersion() === "2026-07-28";
    await (isModern ? client.listen({ resourceSubscriptions: [uri] }) : client.subscribeResource({ uri }));
    return {};
  },
  "next update": async () => {
    if (!updates.length) await new Promise((resolve) => (wake = resolve));
    return { uri: updates.shift() };
  },
};

const say = (message) => process.stdout.write(JSON.stringify(message) + "\n");

await client.connect(transport);
say({ protocolVersion: client.getNegotiatedProtocolVersion(), serverInfo: client.getServerVersion() });
for await (const line of createInterface({ input: process.stdin })) {
  const { method, params } = JSON.parse(line);
  try {
    say({ result: await verbs[method](params) });
  } catch (error) {
    say({ error: { code: error.code, message: error.message } });
  }
}
await client.close();
