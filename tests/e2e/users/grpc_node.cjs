// @grpc/grpc-js, which reads proto/ itself when it runs.
"use strict";

const grpc = require("@grpc/grpc-js");
const loader = require("@grpc/proto-loader");
const { task, listed, checked, expect, fail } = require("./client.cjs");

const { status } = grpc;

function inJson({ created_at, ...user }) {
  const at = new Date(Number(created_at.seconds) * 1_000 + created_at.nanos / 1_000_000);
  // With three digits or none after the point, as protobuf has it.
  return { ...user, created_at: at.toISOString().replace(".000Z", "Z") };
}

async function main() {
  const contract = await loader.load("user/v1/user.proto", {
    includeDirs: [task.proto],
    keepCase: true,
    defaults: true,
    enums: String,
    longs: String,
    oneofs: true,
  });
  const { UserService } = grpc.loadPackageDefinition(contract).user.v1;
  const client = new UserService(task.grpc, grpc.credentials.createInsecure());
  const call = (method, request, options = {}) =>
    new Promise((resolve, reject) => {
      const answered = (error, answer) => (error ? reject(error) : resolve(answer));
      client[method](request, new grpc.Metadata(), options, answered);
    });
  const fails = async (code, words, promise) => {
    const error = await promise.then(fail, (error) => error);
    expect(error.code === code, `code ${error.code} in place of ${code}: ${error.details}`);
    expect(error.details.includes(words), `${words} is not in ${error.details}`);
  };

  const users = [];
  for await (const user of client.ListUsers({ limit: task.count })) users.push(inJson(user));
  listed("grpc-js ListUsers", users);
  const one = await call("GetUser", { user_id: 1 });
  expect(one.name === "Alice Johnson", `the first user is ${one.name}`);

  await fails(status.INVALID_ARGUMENT, "ID must be positive", call("GetUser", { user_id: 0 }));
  await fails(status.NOT_FOUND, "not found", call("GetUser", { user_id: 2 ** 31 - 1 }));
  await fails(status.INTERNAL, "", call("Echo", { code: status.INTERNAL }));
  const slow = call("Echo", { delay: { seconds: 30 } }, { deadline: Date.now() + 300 });
  await fails(status.DEADLINE_EXCEEDED, "", slow);
  const admin = { name: "A", email: "a@example.com", age: 1, roles: ["admin"] };
  await fails(status.UNAUTHENTICATED, "Missing token", call("CreateUser", admin));
  checked("grpc-js: OK, and five errors");

  const created = await new Promise((resolve, reject) => {
    const answered = (error, answer) => (error ? reject(error) : resolve(answer));
    const batch = client.BatchCreateUsers(answered);
    for (let i = 0; i < 1_000; i++) {
      batch.write({ name: `Node ${i}`, email: `node${i}@example.com`, age: i % 150 });
    }
    batch.end();
  });
  expect(created.users_created === 1_000, `${created.users_created} were created`);
  const after = created.user_ids[0] - 1;
  let got = 0;
  for await (const user of client.ListUsers({ after_user_id: after, limit: 1_000 })) {
    expect(user.name === `Node ${got}`, `user ${got} is ${user.name}`);
    got += 1;
  }
  expect(got === 1_000, `${got} were listed`);
  checked("grpc-js: 1000 users streamed in and out");

  const stream = client.StreamUsers();
  const answers = stream[Symbol.asyncIterator]();
  for (let i = 1; i <= 10; i++) {
    stream.write({ user: { name: `Pong ${i}`, email: "pong@example.com", age: i } });
    const { value } = await answers.next();
    expect(value.sequence === String(i), `answer ${value.sequence} to message ${i}`);
    expect(value.result === "created" && value.created.name === `Pong ${i}`, value);
  }
  stream.end();
  expect((await answers.next()).done, "more answers than messages");
  checked("grpc-js StreamUsers: each message is answered before the next");
  client.close();
}

main().catch(fail);
