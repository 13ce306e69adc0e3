// The page: a gallery, a character, a chat. Text from characters and users only ever becomes text nodes; the one exception
// is `html`, which the server has sanitised.

const main = document.getElementById("main");
const where = document.getElementById("where");
const notice = document.getElementById("notice");
let key = sessionStorage.getItem("key") ?? "";
let stopAnswer = null;

/** Makes an element: properties, then children (elements or text). */
function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && name !== "list" && name !== "form") element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

function tell(text, bad = false) {
  notice.textContent = text;
  notice.className = text ? (bad ? "shown bad" : "shown") : "";
  clearTimeout(tell.timer);
  if (text) tell.timer = setTimeout(() => tell(""), bad ? 9000 : 4000);
}

async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (key) headers.authorization = `Bearer ${key}`;
  let body = options.body;
  if (options.json !== undefined) {
    body = JSON.stringify(options.json);
    headers["content-type"] = "application/json";
  }
  const reply = await fetch(path, { ...options, headers, body });
  if (reply.status === 401) {
    const given = await askForKey();
    if (given) return ask(path, options);
  }
  if (!reply.ok) {
    const problem = await reply.json().catch(() => null);
    throw new Error(problem?.error?.message ?? `HTTP ${reply.status}`);
  }
  return reply;
}

const get = async (path) => (await ask(path)).json();
const send = async (path, json, method = "POST") => (await ask(path, { method, json })).json();

function askForKey() {
  return new Promise((resolve) => {
    const input = make("input", { type: "password", id: "key", autocomplete: "current-password" });
    const form = make("form", { className: "panel" }, make("label", { htmlFor: "key" }, "This server asks for its key"), input,
      make("p", {}, make("button", { className: "primary" }, "Use it")));
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      key = input.value.trim();
      sessionStorage.setItem("key", key);
      resolve(key);
    });
    main.replaceChildren(form);
    input.focus();
  });
}

/** Pictures are fetched, because an address in `src` would carry no key. */
function avatar(id, large = false) {
  const image = make("img", { className: large ? "avatar large" : "avatar", alt: "" });
  const load = async () => {
    try {
      const blob = await (await ask(`/v1/characters/${encodeURIComponent(id)}/avatar`)).blob();
      image.src = URL.createObjectURL(blob);
      image.onload = () => URL.revokeObjectURL(image.src);
    } catch { /* A character without its picture is still a character. */ }
  };
  new IntersectionObserver((entries, observer) => {
    if (entries.some((entry) => entry.isIntersecting)) { observer.disconnect(); load(); }
  }).observe(image);
  return image;
}

function show(title, ...children) {
  where.textContent = title;
  document.title = title ? `${title} – OpenCharacter` : "OpenCharacter";
  main.replaceChildren(...children);
}

/** Runs what a person asked for; what goes wrong is said. */
const doing = (work) => async (event) => {
  event?.preventDefault?.();
  const button = event?.submitter ?? event?.currentTarget;
  if (button instanceof HTMLButtonElement) button.disabled = true;
  try { await work(event); } catch (error) { if (error.name !== "AbortError") tell(error.message, true); }
  if (button instanceof HTMLButtonElement) button.disabled = false;
};

async function gallery() {
  const persona = make("input", { id: "persona", required: true, maxLength: 2000, placeholder: "a lighthouse keeper who hates the sea" });
  const create = make("form", { className: "row" }, persona, make("button", { className: "primary" }, "Create"));
  create.addEventListener("submit", doing(async () => {
    tell("The profile is being written; that takes a moment…");
    const character = await send("/v1/characters", { persona: persona.value });
    tell(`${character.name} is here.`);
    location.hash = `#/character/${character.id}`;
  }));
  const file = make("input", { type: "file", id: "file", accept: ".png,.json,.charx,.jpg,.jpeg", multiple: true });
  file.addEventListener("change", () => bring([...file.files]));
  const list = make("ul", { className: "gallery" });
  const search = make("input", { type: "search", id: "search", placeholder: "name or persona" });
  const more = make("button", { hidden: true }, "More");
  let offset = 0;
  const page = 60;
  const fill = async (fresh) => {
    if (fresh) offset = 0;
    const { data } = await get(`/v1/characters?search=${encodeURIComponent(search.value)}&limit=${page}&offset=${offset}`);
    offset += data.length;
    more.hidden = data.length < page;
    const items = data.map((one) => make("li", {}, make("a", { href: `#/character/${one.id}` }, avatar(one.id),
      make("div", {}, make("b", {}, one.name), make("p", {}, one.persona)))));
    if (fresh) list.replaceChildren(...items); else list.append(...items);
    if (fresh && !items.length) list.append(make("li", { className: "quiet" }, search.value ? "Nobody fits." : "Nobody is here yet: create somebody, or drop a card."));
  };
  let typing;
  search.addEventListener("input", () => { clearTimeout(typing); typing = setTimeout(doing(() => fill(true)), 200); });
  more.addEventListener("click", doing(() => fill(false)));
  const panel = make("section", { className: "panel", id: "drop" }, make("h1", {}, "Characters"),
    make("label", { htmlFor: "persona" }, "A new one, from one line"), create,
    make("label", { htmlFor: "file" }, "Or bring cards ", make("small", {}, "PNG, JSON or CHARX; dropping them here works too")), file);
  show("", panel, make("label", { htmlFor: "search" }, "Search"), search, make("p"), list, make("p", {}, more));
  await fill(true);
}

async function bring(files) {
  for (const file of files) {
    try {
      const reply = await ask("/v1/characters/import", { method: "POST", body: file });
      const character = await reply.json();
      const odd = character.warnings.length ? ` (${character.warnings.length} things in the file are odd: ${character.warnings[0]})` : "";
      tell(`${character.name} is here${odd}.`);
      if (files.length === 1) { location.hash = `#/character/${character.id}`; return; }
    } catch (error) { tell(`${file.name}: ${error.message}`, true); }
  }
  await route();
}

addEventListener("dragover", (event) => { event.preventDefault(); document.getElementById("drop")?.classList.add("over"); });
addEventListener("dragleave", () => document.getElementById("drop")?.classList.remove("over"));
addEventListener("drop", (event) => { event.preventDefault(); document.getElementById("drop")?.classList.remove("over"); bring([...event.dataTransfer.files]); });

const PROFILE = [["age", "Age"], ["gender", "Gender"], ["race", "Race"], ["birth_place", "Birth place"], ["appearance", "Appearance"], ["general_experience", "Experience"], ["personality", "Personality"]];
const FIELDS = [["name", "Name", 1], ["description", "Description", 6], ["personality", "Personality", 3], ["scenario", "Scenario", 2], ["first_mes", "Greeting", 3], ["mes_example", "Example dialogue", 4], ["system_prompt", "System prompt", 2], ["post_history_instructions", "Instructions after the history", 2]];

async function character(id) {
  const path = `/v1/characters/${encodeURIComponent(id)}`;
  const [one, { data: chats }] = await Promise.all([get(path), get(`/v1/sessions?character_id=${encodeURIComponent(id)}`)]);
  const begin = doing(async () => {
    const session = await send("/v1/sessions", { character_id: id, user_name: localStorage.getItem("user") ?? "" });
    location.hash = `#/chat/${session.id}`;
  });
  const download = (format, label) => make("button", { onclick: doing(async () => {
    const blob = await (await ask(`${path}/card?format=${format}`)).blob();
    const link = make("a", { href: URL.createObjectURL(blob), download: `${one.name}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }) }, label);
  const known = PROFILE.filter(([field]) => one.profile[field]);
  const profile = make("dl", { className: "profile" }, ...known.flatMap(([field, label]) => [make("dt", {}, label), make("dd", {}, one.profile[field])]));
  const inputs = FIELDS.map(([field, label, rows]) => [field, label, rows === 1 ? make("input", { id: field, value: one[field] }) : make("textarea", { id: field, rows, value: one[field] })]);
  const greetings = make("textarea", { id: "greetings", rows: 3, value: one.alternate_greetings.join("\n---\n") });
  const edit = make("form", {}, ...inputs.flatMap(([field, label, input]) => [make("label", { htmlFor: field }, label), input]),
    make("label", { htmlFor: "greetings" }, "Further greetings ", make("small", {}, "--- on a line of its own between them")), greetings,
    make("p", {}, make("button", { className: "primary" }, "Save")));
  edit.addEventListener("submit", doing(async () => {
    const changes = Object.fromEntries(inputs.map(([field, , input]) => [field, input.value]));
    changes.alternate_greetings = greetings.value.split(/\n---\n/).map((text) => text.trim()).filter(Boolean);
    await send(path, changes, "PATCH");
    tell("Saved.");
    await route();
  }));
  const remove = make("button", { onclick: doing(async () => {
    if (!confirm(`Remove ${one.name} and all chats with this character?`)) return;
    await ask(path, { method: "DELETE" });
    location.hash = "#/";
  }) }, "Remove");
  const past = chats.map((chat) => make("li", {}, make("a", { href: `#/chat/${chat.id}` }, new Date(chat.updated * 1000).toLocaleString())));
  show(one.name,
    make("section", { className: "panel" },
      make("div", { className: "row" }, avatar(id, true), make("div", {}, make("h1", {}, one.name), make("p", { className: "quiet" }, one.persona),
        make("div", { className: "row" }, make("button", { className: "primary", onclick: begin }, "Chat"), download("png", "PNG card"), download("json", "JSON"), download("charx", "CHARX"), remove)))),
    make("section", { className: "panel" }, make("h2", {}, "Profile"), profile, known.length ? null : make("p", { className: "quiet" }, "Nothing is known but the description."),
      make("p", { className: "quiet" }, `${one.lorebook_entries} lorebook entries. Over the API this character is the model `, make("code", {}, one.model), ".")),
    make("section", { className: "panel" }, make("h2", {}, "Chats"), past.length ? make("ul", {}, ...past) : make("p", { className: "quiet" }, "None yet.")),
    make("details", { className: "panel" }, make("summary", {}, "Edit"), edit));
}

/** Server-sent events of a reply, one document each. */
async function* events(reply) {
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value;
    for (let end; (end = rest.indexOf("\n\n")) >= 0; rest = rest.slice(end + 2)) {
      const line = rest.slice(0, end);
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

async function chat(id) {
  const path = `/v1/sessions/${encodeURIComponent(id)}`;
  const [session, { data: models }] = await Promise.all([get(path), get("/v1/models")]);
  const names = models.filter((model) => model.owned_by !== "character").map((model) => model.id);
  const log = make("div", { className: "log", role: "log", "aria-label": "Chat", tabIndex: 0 });
  const words = make("textarea", { id: "words", rows: 2, placeholder: `Say something to ${session.character_name}`, "aria-label": "Your message" });
  const say = make("button", { className: "primary" }, "Send");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  const model = make("select", { "aria-label": "Model" }, ...names.map((name) => make("option", {}, name)));
  const other = make("select", { "aria-label": "Model to compare with" });
  const others = () => other.replaceChildren(make("option", { value: "" }, "compare with…"), ...names.filter((name) => name !== model.value).map((name) => make("option", {}, name)));
  model.addEventListener("change", others);
  others();
  other.hidden = names.length < 2;
  const form = make("form", { className: "say" }, words, model, other, make("div", { className: "end" }, stop, say));
  stop.addEventListener("click", () => stopAnswer?.abort());
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });

  /** Streams an answer into a bubble; its id, or null when it was stopped. */
  const stream = async (address, json, bubble) => {
    stopAnswer = new AbortController();
    stop.hidden = false;
    say.disabled = true;
    bubble.classList.add("writing");
    let answered = null;
    try {
      const reply = await ask(address, { method: "POST", json, signal: stopAnswer.signal });
      for await (const event of events(reply)) {
        if (event.error) throw new Error(event.error.message);
        if (event.type === "piece") bubble.lastChild.textContent += event.text;
        if (event.type === "answered") answered = event.id;
        if (!bubble.closest(".compare")) log.scrollTop = log.scrollHeight;
      }
    } finally {
      stopAnswer = null;
      stop.hidden = true;
      say.disabled = false;
      bubble.classList.remove("writing");
    }
    return answered;
  };
  const bubble = (role, who, text) => make("div", { className: `message ${role}` }, make("div", { className: "who" }, who), make("div", { className: "text" }, text));
  const redraw = async () => { draw(await get(path)); };
  const again = doing(async () => {
    const waiting = bubble("assistant", session.character_name, "");
    log.append(waiting);
    try { await stream(`${path}/answers`, { model: model.value }, waiting); } finally { await redraw(); words.focus(); }
  });

  const draw = (now) => {
    log.replaceChildren(...now.messages.map((message, index) => {
      const mine = message.role === "user";
      const text = make("div", { className: "text" });
      text.innerHTML = message.html;
      const place = message.swipes.indexOf(message.id);
      const turn = (step) => doing(async () => draw(await send(`${path}/leaf`, { message: message.swipes[place + step] })));
      const tools = make("div", { className: "tools" });
      if (message.swipes.length > 1) tools.append(make("button", { title: "The one before", "aria-label": "Previous version", disabled: place === 0, onclick: turn(-1) }, "‹"), `${place + 1}/${message.swipes.length}`, make("button", { title: "The next one", "aria-label": "Next version", disabled: place + 1 === message.swipes.length, onclick: turn(1) }, "›"));
      tools.append(make("button", { onclick: () => change(message, text) }, "Edit"));
      if (!mine && index === now.messages.length - 1 && now.messages.some((one) => one.role === "user")) tools.append(make("button", { onclick: again }, "Again"));
      if (mine && index === now.messages.length - 1) tools.append(make("button", { onclick: again }, "Answer"));
      const trace = message.trace && make("details", { className: "trace" }, make("summary", {}, `${message.trace.tokens} tokens, ${message.trace.lore.length} lorebook entries`), make("pre", {}, JSON.stringify(message.trace, null, 1)));
      return make("div", { className: `message ${message.role}` }, make("div", { className: "who" }, mine ? now.user_name : `${now.character_name}${message.model ? ` · ${message.model}` : ""}`), text, tools, trace || null);
    }));
    log.scrollTop = log.scrollHeight;
  };
  const change = (message, text) => {
    const area = make("textarea", { rows: 4, value: message.content, "aria-label": "New words" });
    const save = doing(async () => draw(await send(`${path}/branch`, { message: message.id, content: area.value })));
    text.replaceChildren(area, make("div", { className: "tools" }, make("button", { onclick: save }, "Save as a branch"), make("button", { onclick: doing(redraw) }, "Leave it")));
    area.focus();
  };

  form.addEventListener("submit", doing(async () => {
    const content = words.value.trim();
    if (!content || say.disabled) return;
    words.value = "";
    log.append(bubble("user", session.user_name, content));
    if (other.value) { await compare(content); return; }
    const waiting = bubble("assistant", session.character_name, "");
    log.append(waiting);
    log.scrollTop = log.scrollHeight;
    try { await stream(`${path}/messages`, { content, model: model.value }, waiting); } finally { await redraw(); words.focus(); }
  }));

  /** The same message answered by two models, side by side; which is better is kept for training. */
  const compare = async (content) => {
    const [left, right] = [model.value, other.value].map((name) => bubble("assistant", name, ""));
    const pair = make("div", { className: "compare" }, left, right);
    log.append(pair);
    log.scrollTop = log.scrollHeight;
    const first = await stream(`${path}/messages`, { content, model: model.value }, left);
    const second = await stream(`${path}/answers`, { model: other.value }, right);
    const prefer = (chosen, rejected) => doing(async () => {
      await send("/v1/preferences", { session: id, chosen, rejected });
      draw(await send(`${path}/leaf`, { message: chosen }));
      tell("Kept: /v1/preferences has it for training.");
    });
    left.append(make("div", { className: "tools" }, make("button", { onclick: prefer(first, second) }, "This one is better")));
    right.append(make("div", { className: "tools" }, make("button", { onclick: prefer(second, first) }, "This one is better")));
    log.scrollTop = log.scrollHeight;
  };

  const export_ = make("button", { onclick: doing(async () => {
    const blob = await (await ask(`${path}/export`)).blob();
    const link = make("a", { href: URL.createObjectURL(blob), download: `${session.character_name}.jsonl` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }) }, "Export");
  const head = make("div", { className: "row" }, avatar(session.character_id), make("h1", {}, make("a", { href: `#/character/${session.character_id}` }, session.character_name)), export_);
  show(session.character_name, make("div", { className: "chat" }, head, log, form));
  draw(session);
  words.focus();
}

async function route() {
  stopAnswer?.abort();
  const [, kind, id] = location.hash.split("/");
  try {
    if (kind === "character") await character(decodeURIComponent(id));
    else if (kind === "chat") await chat(decodeURIComponent(id));
    else await gallery();
  } catch (error) {
    show("", make("div", { className: "panel" }, make("h1", {}, "That did not work"), make("p", {}, error.message), make("a", { href: "#/" }, "To the characters")));
  }
}

addEventListener("hashchange", () => { route().then(() => main.focus({ preventScroll: true })); });
route();
