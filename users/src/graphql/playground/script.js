'use strict';
const $ = (id) => document.getElementById(id);
const PATH = '/graphql';
// Events of a subscription that are kept on the page.
const MAX_EVENTS = 200;

const EXAMPLES = [
  ['A user', 'query ($id: Int!) {\n  user(id: $id) {\n    userId\n    name\n    email\n    age\n    roles\n    createdAt\n  }\n}', { id: 1 }],
  ['A page of users', '{\n  userCount\n  users(limit: 3, after: 0) {\n    users {\n      userId\n      name\n    }\n    next\n  }\n}'],
  ['Create a user', 'mutation ($input: CreateUserInput!) {\n  createUser(input: $input) {\n    userId\n    createdAt\n  }\n}', { input: { name: 'Ada Lovelace', email: 'ada@example.com', age: 36, roles: ['user'] } }],
  ['Create several, or none', 'mutation ($inputs: [CreateUserInput!]!) {\n  createUsers(inputs: $inputs) {\n    usersCreated\n    userIds\n  }\n}', { inputs: [{ name: 'Grace Hopper', email: 'grace@example.com', age: 85 }, { name: 'Alan Turing', email: 'alan@example.com', age: 41 }] }],
  ['Watch users (subscription)', 'subscription {\n  users(after: 0) {\n    userId\n    name\n    createdAt\n  }\n}'],
  ['Listen to the chat (subscription)', 'subscription {\n  chat {\n    sequence\n    user\n    text\n    sentAt\n  }\n}'],
  ['Say something in the chat', 'mutation {\n  say(user: "Alice", text: "Hello, all!")\n}'],
  ['Echo, half a second later', '{\n  echo(payload: ["a", "b"], delayMs: 500)\n}'],
  ['An error', '{\n  user(id: 99) {\n    name\n  }\n}'],
];

// The kind of the operation, as far as it can be seen without parsing: strings and comments are out.
function kind(query) {
  const bare = query.replace(/"""[\s\S]*?"""|"(?:\\.|[^"\\\n])*"|#.*/g, '');
  let depth = 0;
  for (const [token] of bare.matchAll(/[{}]|\w+/g)) {
    if (token === '{') depth += 1;
    else if (token === '}') depth -= 1;
    else if (depth === 0 && token === 'subscription') return 'subscription';
  }
  return 'other';
}

function say(text, tone = '') {
  $('status').textContent = text;
  $('status').className = tone;
}

// JSON with colours, made of elements: text of the server is never taken for HTML.
function pretty(value) {
  const text = JSON.stringify(value, null, 2);
  const out = document.createDocumentFragment();
  const parts = /("(?:\\.|[^"\\])*")(\s*:)?|\b(?:true|false|null)\b|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?/g;
  let end = 0;
  for (const match of text.matchAll(parts)) {
    out.append(text.slice(end, match.index));
    const span = document.createElement('span');
    span.className = match[1] ? (match[2] ? 'k' : 's') : 'n';
    span.textContent = match[1] || match[0];
    out.append(span, match[2] || '');
    end = match.index + match[0].length;
  }
  out.append(text.slice(end));
  return out;
}

function request() {
  const call = { query: $('query').value };
  const variables = $('variables').value.trim();
  if (variables) call.variables = JSON.parse(variables);
  return call;
}

async function run() {
  let call;
  try {
    call = request();
  } catch (error) {
    $('variables-box').open = true;
    say(`The variables are not JSON: ${error.message}`, 'bad');
    return;
  }
  stop();
  if (kind(call.query) === 'subscription') subscribe(call);
  else await post(call);
}

async function ask(call) {
  const headers = { 'content-type': 'application/json', accept: 'application/graphql-response+json, application/json' };
  const authorization = $('authorization').value.trim();
  if (authorization) headers.authorization = authorization;
  return fetch(PATH, { method: 'POST', headers, body: JSON.stringify(call) });
}

async function post(call) {
  $('run').disabled = true;
  say('Waiting...');
  const begin = performance.now();
  try {
    const response = await ask(call);
    const text = await response.text();
    const time = Math.round(performance.now() - begin);
    let answer;
    try {
      answer = JSON.parse(text);
    } catch {
      $('answer').textContent = text;
      say(`Status ${response.status}`, 'bad');
      return;
    }
    $('answer').replaceChildren(pretty(answer));
    const failed = answer.errors ? `, ${answer.errors.length} error${answer.errors.length > 1 ? 's' : ''}` : '';
    say(`Status ${response.status}, ${time} ms${failed}`, failed ? 'bad' : 'good');
  } catch (error) {
    say(`The server cannot be reached: ${error.message}`, 'bad');
  } finally {
    $('run').disabled = false;
  }
}

let socket = null;

function stop() {
  if (!socket) return;
  const closing = socket;
  socket = null;
  closing.close(1000);
  $('stop').hidden = true;
}

function subscribe(call) {
  const url = new URL(PATH, location.href);
  url.protocol = url.protocol === 'https:' ? 'wss:' : 'ws:';
  const mine = new WebSocket(url, 'graphql-transport-ws');
  socket = mine;
  let count = 0;
  let failed = false;
  $('stop').hidden = false;
  $('answer').replaceChildren();
  say('Connecting...');
  const send = (message) => mine.send(JSON.stringify(message));
  const show = (value) => {
    const event = document.createElement('div');
    const time = document.createElement('time');
    event.className = 'event';
    time.textContent = new Date().toLocaleTimeString();
    event.append(time, pretty(value));
    $('answer').prepend(event);
    while ($('answer').children.length > MAX_EVENTS) $('answer').lastChild.remove();
  };
  const state = (text) => say(`${text}, ${count} event${count === 1 ? '' : 's'}`, failed ? 'bad' : 'good');
  mine.onopen = () => {
    const authorization = $('authorization').value.trim();
    send({ type: 'connection_init', payload: authorization ? { authorization } : {} });
  };
  mine.onmessage = ({ data }) => {
    if (socket !== mine) return;
    const message = JSON.parse(data);
    if (message.type === 'connection_ack') {
      send({ id: '1', type: 'subscribe', payload: call });
      state('Listening');
    } else if (message.type === 'ping') {
      send({ type: 'pong' });
    } else if (message.type === 'next') {
      count += 1;
      show(message.payload);
      state('Listening');
    } else if (message.type === 'error') {
      failed = true;
      show({ errors: message.payload });
      state('Failed');
      stop();
    } else if (message.type === 'complete') {
      state('Complete');
      stop();
    }
  };
  mine.onclose = ({ code, reason }) => {
    if (socket !== mine) return;
    failed = true;
    state(reason ? `Closed: ${reason}` : `Closed (${code})`);
    stop();
  };
}

// The schema, one block for each type.
const INTROSPECTION = `{ __schema {
  queryType { name } mutationType { name } subscriptionType { name }
  types {
    kind name description
    fields { name description args { name description defaultValue type { ...T } } type { ...T } }
    inputFields { name description defaultValue type { ...T } }
    enumValues { name description }
  } } }
fragment T on __Type { kind name ofType { kind name ofType { kind name ofType { kind name } } } }`;

function typeName(type) {
  if (type.kind === 'NON_NULL') return `${typeName(type.ofType)}!`;
  if (type.kind === 'LIST') return `[${typeName(type.ofType)}]`;
  return type.name;
}

function element(name, text, ...children) {
  const made = document.createElement(name);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

// A description, with what is between backticks as code.
function description(name, text) {
  const made = element(name);
  text.split('`').forEach((part, i) => made.append(i % 2 ? element('code', part) : part));
  return made;
}

function argument({ name, type, defaultValue }) {
  return `${name}: ${typeName(type)}${defaultValue === null ? '' : ` = ${defaultValue}`}`;
}

function block(type, isOpen) {
  const list = document.createElement('dl');
  for (const field of type.fields || type.inputFields || type.enumValues || []) {
    const args = field.args && field.args.length ? `(${field.args.map(argument).join(', ')})` : '';
    const result = field.type ? `: ${typeName(field.type)}` : '';
    list.append(element('dt', `${field.name}${args}${result}`));
    if (field.description) list.append(description('dd', field.description));
  }
  const details = document.createElement('details');
  const word = { OBJECT: 'type', INPUT_OBJECT: 'input', ENUM: 'enum', SCALAR: 'scalar' }[type.kind] || type.kind.toLowerCase();
  details.append(element('summary', '', element('small', `${word} `), type.name));
  if (type.description) details.append(description('p', type.description));
  details.append(list);
  details.open = isOpen;
  return details;
}

async function schema() {
  try {
    const answer = await (await ask({ query: INTROSPECTION })).json();
    if (answer.errors) throw new Error(answer.errors[0].message);
    const { queryType, mutationType, subscriptionType, types } = answer.data.__schema;
    const roots = [queryType, mutationType, subscriptionType].filter(Boolean).map((type) => type.name);
    const rank = (type) => (roots.includes(type.name) ? roots.indexOf(type.name) : type.kind === 'SCALAR' ? 9 : 5);
    const shown = types.filter((type) => !type.name.startsWith('__'));
    shown.sort((a, b) => rank(a) - rank(b) || a.name.localeCompare(b.name));
    $('types').replaceChildren(...shown.map((type) => block(type, roots.includes(type.name))));
  } catch (error) {
    $('types').textContent = `The schema cannot be read: ${error.message}`;
  }
}

$('filter').oninput = () => {
  const words = $('filter').value.toLowerCase();
  for (const details of $('types').querySelectorAll('details')) {
    const found = details.textContent.toLowerCase().includes(words);
    details.hidden = !found;
    if (words && found) details.open = true;
  }
};

function choose(index) {
  const [, query, variables] = EXAMPLES[index];
  $('query').value = query;
  $('variables').value = variables ? JSON.stringify(variables, null, 2) : '';
  $('variables-box').open = Boolean(variables);
}

EXAMPLES.forEach(([name], index) => $('examples').append(new Option(name, index)));
$('examples').onchange = () => choose(Number($('examples').value));
$('run').onclick = run;
$('stop').onclick = () => {
  stop();
  say('Stopped');
};
document.addEventListener('keydown', (event) => {
  if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!$('run').disabled) run();
  }
});
// Who shows something else may see something else.
$('authorization').onchange = schema;
choose(0);
run();
schema();
