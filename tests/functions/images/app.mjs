// Functions of the tests' image: each is a handler that AWS's Node client runs.
import { hostname } from "node:os";

let calls = 0;

export const echo = async (event, context) => ({
  event,
  calls: ++calls,
  request_id: context.awsRequestId,
  host: hostname(),
});

export const fail = async (event) => {
  throw new RangeError(`no good: ${JSON.stringify(event)}`);
};

export const leave = async (event) => process.exit(event.code);

export const sleep = async (event) => {
  await new Promise((done) => setTimeout(done, event.seconds * 1000));
  return event;
};

// As many parts as the event says, some milliseconds apart.
export const stream = awslambda.streamifyResponse(async (event, answer) => {
  answer.setContentType("text/plain");
  for (let part = 0; part < event.parts; part++) {
    answer.write(`part ${part}\n`);
    await new Promise((done) => setTimeout(done, event.pause));
  }
  answer.end();
});

// A page with a prelude, for a function URL.
export const page = awslambda.streamifyResponse(async (event, answer) => {
  const prelude = { statusCode: 200, headers: { "content-type": "text/html" }, cookies: ["seen=1"] };
  answer = awslambda.HttpResponseStream.from(answer, prelude);
  answer.write("<h1>streamed</h1>");
  answer.write(`<p id="path">${event.rawPath}</p>`);
  answer.end();
});
