// Connect for the web, speaking gRPC-Web, with the contract as protoc has compiled it.

import { createFileRegistry, fromBinary, toJson } from "@bufbuild/protobuf";
import { FileDescriptorSetSchema } from "@bufbuild/protobuf/wkt";
import { Code, ConnectError, createClient } from "@connectrpc/connect";
import { createGrpcWebTransport } from "@connectrpc/connect-web";

const answer = await fetch("/contract.binpb");
const files = fromBinary(FileDescriptorSetSchema, new Uint8Array(await answer.arrayBuffer()));
const contract = createFileRegistry(files);
const User = contract.getMessage("user.v1.UserResponse");
const inJson = (user) => toJson(User, user, { useProtoFieldName: true, alwaysEmitImplicit: true });

function expect(condition, text) {
  if (!condition) throw new Error(text);
}

async function fails(code, words, call) {
  const error = await call.then(
    () => expect(false, `${Code[code]} was expected`),
    (error) => ConnectError.from(error),
  );
  expect(error.code === code, `${error} in place of ${Code[code]}`);
  expect(error.rawMessage.includes(words), `${words} is not in ${error}`);
  return error;
}

const clientOf = (grpc) =>
  createClient(contract.getService("user.v1.UserService"), createGrpcWebTransport({ baseUrl: grpc }));

// Calls of all kinds that gRPC-Web has; the users.
globalThis.walk = async (grpc, count) => {
  const client = clientOf(grpc);
  const users = [];
  for await (const user of client.listUsers({ limit: count })) users.push(inJson(user));
  const first = await client.getUser({ userId: 1 });
  expect(first.name === "Alice Johnson", `the first user is ${first.name}`);

  const wrong = await fails(Code.InvalidArgument, "ID must be positive", client.getUser({}));
  const kinds = wrong.details.map(({ type }) => type);
  expect(kinds[0] === "google.rpc.BadRequest", `the details are ${kinds}`);
  await fails(Code.NotFound, "not found", client.getUser({ userId: 2 ** 31 - 1 }));
  const slow = client.echo({ delay: { seconds: 30n } }, { timeoutMs: 300 });
  await fails(Code.DeadlineExceeded, "", slow);
  const admin = { name: "A", email: "a@example.com", age: 1, roles: ["admin"] };
  const headers = { authorization: "Bearer x.y.z" };
  await fails(Code.Unauthenticated, "cannot be read", client.createUser(admin, { headers }));

  const newest = await client.createUser({ name: "B", email: "b@example.com", age: 1 });
  const stop = new AbortController();
  const request = { afterUserId: newest.userId - 1, follow: true };
  const following = client.listUsers(request, { signal: stop.signal })[Symbol.asyncIterator]();
  expect((await following.next()).value.userId === newest.userId, "another user is followed");
  const created = await client.createUser({ name: "C", email: "c@example.com", age: 2 });
  const { value: live } = await following.next();
  expect(live.userId === created.userId, `user ${live.userId} in place of ${created.userId}`);
  stop.abort();
  await fails(Code.Canceled, "", following.next());
  return users;
};

// The same users by fetch.
globalThis.read = async (http, count) => {
  const answer = await fetch(`${http}/users?limit=${count}`);
  expect(answer.ok, `the answer is ${answer.status}`);
  return (await answer.json()).users;
};

// And as events.
globalThis.listen = (http, count) =>
  new Promise((resolve, reject) => {
    const users = [];
    const source = new EventSource(`${http}/users/events?after=0`);
    source.onerror = () => reject(new Error("the events broke off"));
    source.addEventListener("user", ({ data }) => {
      users.push(JSON.parse(data));
      if (users.length < count) return;
      source.close();
      resolve(users);
    });
  });

globalThis.isReady = true;
