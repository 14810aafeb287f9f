// Runs jobs by the generated types: `node job.js URL TOKEN` prints, as JSON, what the server answered.
import type { components, operations, paths } from "./schema";

type Schemas = components["schemas"];
type Answer<Operation extends keyof operations> = operations[Operation] extends {
  responses: { 200: { content: { "application/json": infer Body } } };
}
  ? Body
  : never;

declare const process: { argv: string[]; exit(code: number): never };
const [url, token] = process.argv.slice(2);
const headers = { Authorization: `Bearer ${token}`, "Content-Type": "application/json" };

async function get<Operation extends keyof operations>(path: string): Promise<Answer<Operation>> {
  return (await fetch(url + path, { headers })).json();
}

async function post<Operation extends "run" | "stop">(
  path: keyof paths,
  body: operations[Operation]["requestBody"]["content"]["application/json"],
): Promise<Answer<Operation> | Schemas["Problem"]> {
  return (await fetch(url + path, { method: "POST", headers, body: JSON.stringify(body) })).json();
}

function succeeded<Body extends { success: true }>(answer: Body | Schemas["Problem"]): Body {
  if (!answer.success) throw new Error(answer.error);
  return answer;
}

async function hello(): Promise<Schemas["HelloFrame"]> {
  const text = new TextDecoder().decode((await (await fetch(`${url}/events`, { headers })).body!.getReader().read()).value);
  const frame: Schemas["Frame"] = JSON.parse(text.split("data: ")[1].split("\n")[0]);
  if (frame.type !== "hello") throw new Error(frame.type);
  return frame;
}

async function main() {
  const image = "busybox:local";
  const ended = succeeded(await post<"run">("/run", { image, command: ["echo", "42"], type: "container", wait: true }));
  const nap = succeeded(await post<"run">("/run", { image, command: "nap 300", name: "typescript" }));
  const napping = await get<"status">("/status/typescript");
  const stopped = succeeded(await post<"stop">("/stop", { id: nap.id }));
  const refused = await post<"run">("/run", { image: "No image" });
  const listed = (await get<"list">("/status?status=complete")).services.map((each) => each.id === ended.id);
  const took = (Date.parse(ended.finished_at!) - Date.parse(ended.created_at!)) / 1000;
  const answers = {
    output: ended.result?.stdout,
    took,
    same: napping.id === nap.id && nap.id === stopped.id,
    listed,
    refused: refused.success ? 200 : refused.code,
    protocol: (await hello()).protocol,
  };
  console.log(JSON.stringify(answers));
}

main().then(() => process.exit(0));
