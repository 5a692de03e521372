// graphql-ws: queries, mutations and a subscription, all on one WebSocket.
"use strict";

const { createClient } = require("graphql-ws");
const WebSocket = require("ws");
const { task, listed, checked, expect, fail } = require("./client.cjs");

const FIELDS = "userId name email age createdAt roles";

function renamed({ userId, createdAt, ...user }) {
  return { user_id: userId, created_at: createdAt, ...user };
}

async function main() {
  const client = createClient({
    url: `ws://${task.http}/graphql`,
    webSocketImpl: WebSocket,
    lazy: false,
    retryAttempts: 0,
    onNonLazyError: fail,
  });
  const first = async (query, variables) => {
    for await (const answer of client.iterate({ query, variables })) return answer;
    return fail("an operation ended without an answer");
  };
  const query = `query($limit: Int) { users(limit: $limit) { users { ${FIELDS} } } }`;
  const { data } = await first(query, { limit: task.count });
  listed("graphql-ws, a query", data.users.users.map(renamed));

  const follow = `subscription($after: Int, $limit: Int) {
    users(after: $after, limit: $limit) { ${FIELDS} }
  }`;
  const users = [];
  const variables = { after: 0, limit: task.count };
  for await (const answer of client.iterate({ query: follow, variables })) {
    users.push(renamed(answer.data.users));
  }
  listed("graphql-ws, a subscription", users);

  const { data: counted } = await first("{ userCount }");
  const after = counted.userCount - 1;
  const following = client.iterate({ query: follow, variables: { after } });
  const { value: last } = await following.next();
  expect(last.data.users.userId === after + 1, last);
  const create = `mutation { createUser(input: {
    name: "Node", email: "node@example.com", age: 5, roles: []
  }) { ${FIELDS} } }`;
  const { data: created } = await first(create);
  const { value: live } = await following.next();
  expect(live.data.users.userId === created.createUser.userId, live);
  await following.return();
  const { errors } = await first("{ user(id: 0) { name } }");
  expect(errors[0].extensions.code === "INVALID_ARGUMENT", errors);
  checked("graphql-ws: a subscription sees a user who was created afterwards, and an error has its code");
  await client.dispose();
}

main().catch(fail);
