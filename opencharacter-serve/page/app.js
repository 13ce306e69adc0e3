// The page: a gallery, a character, a chat, runs. Text from characters and users only ever becomes text nodes; the one
// exception is `html`, which the server has sanitised.

const main = document.getElementById("main");
const where = document.getElementById("where");
const notice = document.getElementById("notice");
let key = sessionStorage.getItem("key") ?? "";
let stopAnswer = null;
/** Counts pages shown, so that what still runs for an earlier one can tell. */
let shownPages = 0;

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

/** Fetches a document and has the browser keep it as a file. */
async function download(path, name) {
  const blob = await (await ask(path)).blob();
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

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
  shownPages += 1;
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
  const growing = make("div", { className: "growing", hidden: true, role: "log", "aria-label": "What is being written" });
  create.addEventListener("submit", doing(async () => {
    const page = shownPages;
    const character = await watch(persona.value, growing);
    tell(`${character.name} is here.`);
    // Whoever went elsewhere meanwhile stays there.
    if (page === shownPages) location.hash = `#/character/${character.id}`;
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
    make("label", { htmlFor: "persona" }, "A new one, from one line"), create, growing,
    make("label", { htmlFor: "file" }, "Or bring cards ", make("small", {}, "PNG, JSON or CHARX; dropping them here works too")), file);
  show("", panel, make("label", { htmlFor: "search" }, "Search"), search, make("p"), list, make("p", {}, more));
  await fill(true);
}

/** A profile that is being written, which is JSON, as lines that a person reads: what is there of it so far. */
function fields(raw) {
  const pairs = [...raw.matchAll(/"(\w+)"\s*:\s*(?:"((?:[^"\\]|\\.)*)|(-?[\d.]+))/g)];
  if (!pairs.length) return raw.trimStart().startsWith("{") ? "" : raw;
  const text = (value) => value.replace(/\\n/g, " ").replace(/\\(.)/g, "$1");
  return pairs.map(([, name, words, number]) => `${name[0].toUpperCase()}${name.slice(1).replaceAll("_", " ")}: ${words === undefined ? number : text(words)}`).join("\n");
}

/** Has a character made, and shows what the model writes while it writes. */
async function watch(persona, growing) {
  growing.hidden = false;
  growing.replaceChildren(make("p", { className: "quiet" }, "The model reads the persona…"));
  let part = "";
  let text = null;
  let raw = "";
  const reply = await ask("/v1/characters", { method: "POST", json: { persona, stream: true } });
  for await (const event of events(reply)) {
    if (event.error) { growing.hidden = true; throw new Error(event.error.message); }
    if (event.type === "created") return event.character;
    if (event.type === "part") {
      growing.replaceChildren(make("h2", {}, `Writing the ${event.name}`));
      part = event.name;
      text = null;
    }
    if (event.type === "asked") {
      // A profile that was not good enough is written anew; greetings stand one below the other.
      if (text && part === "profile") text.remove();
      text?.classList.remove("writing");
      text = make("p", { className: "text writing" });
      raw = "";
      growing.append(text);
    }
    if (event.type === "piece" && text) {
      raw += event.text;
      text.textContent = part === "profile" ? fields(raw) : raw;
    }
  }
  growing.hidden = true;
  throw new Error("The server ended before the character was made.");
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
  const card = (format, label) => make("button", { onclick: doing(() => download(`${path}/card?format=${format}`, `${one.name}.${format}`)) }, label);
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
        make("div", { className: "row" }, make("button", { className: "primary", onclick: begin }, "Chat"), card("png", "PNG card"), card("json", "JSON"), card("charx", "CHARX"), remove)))),
    make("section", { className: "panel" }, make("h2", {}, "Profile"), profile, known.length ? null : make("p", { className: "quiet" }, "Nothing is known but the description."),
      make("p", { className: "quiet" }, `${one.lorebook_entries} lorebook entries. Over the API this character is the model `, make("code", {}, one.model), "."),
      one.adapter ? make("p", { className: "quiet" }, one.adapter.used ? "It speaks with the adapter that came with its card." : `The adapter that came with its card is not used: ${one.adapter.problem}`) : null),
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
  const session = await get(path);
  const names = session.models;
  const log = make("div", { className: "log", role: "log", "aria-label": "Chat", tabIndex: 0 });
  const words = make("textarea", { id: "words", rows: 2, placeholder: `Say something to ${session.character_name}`, "aria-label": "Your message" });
  const say = make("button", { className: "primary" }, "Send");
  const stop = make("button", { type: "button", hidden: true }, "Stop");
  // Without a name, the adapter that came with the card answers.
  const options = () => [...(session.own_adapter ? [make("option", { value: "" }, "its own adapter")] : []), ...names.map((name) => make("option", { value: name }, name))];
  const model = make("select", { "aria-label": "Model" }, ...options());
  const other = make("select", { "aria-label": "Model to compare with" });
  const others = () => other.replaceChildren(make("option", { value: "" }, "compare with…"), ...options().filter((option) => option.value !== model.value));
  model.addEventListener("change", others);
  others();
  other.hidden = options().length < 2;
  const form = make("form", { className: "say" }, words, model, other, make("div", { className: "end" }, stop, say));
  stop.addEventListener("click", () => stopAnswer?.abort());
  words.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); form.requestSubmit(); }
  });

  /** Until `work` has ended, its redrawing included, nothing else is said or redrawn: that would take its bubbles away. */
  let busy = false;
  const alone = async (work) => {
    if (busy) { tell("Not while this goes on: wait for its end, or stop it."); return; }
    const waits = (yes) => { busy = say.disabled = yes; log.classList.toggle("busy", yes); };
    waits(true);
    try { await work(); } finally { waits(false); }
  };
  /** Streams an answer into a bubble; its id, or null when it was stopped. */
  const stream = async (address, json, bubble) => {
    stopAnswer = new AbortController();
    stop.hidden = false;
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
      bubble.classList.remove("writing");
    }
    return answered;
  };
  const bubble = (role, who, text) => make("div", { className: `message ${role}` }, make("div", { className: "who" }, who), make("div", { className: "text" }, text));
  /** Message ids with the fields in which they are being given other words: those outlive a redrawing. */
  const edits = new Map();
  /** The keyboard stays in what is being changed, or goes to the next message. */
  const redraw = async () => { draw(await get(path)); if (!log.querySelector(":focus")) words.focus(); };
  const again = doing(() => alone(async () => {
    const waiting = bubble("assistant", session.character_name, "");
    log.append(waiting);
    try { await stream(`${path}/answers`, { model: model.value }, waiting); } finally { await redraw(); }
  }));

  const draw = (now) => {
    const focused = document.activeElement;
    log.replaceChildren(...now.messages.map((message, index) => {
      const mine = message.role === "user";
      const text = make("div", { className: "text" });
      if (edits.has(message.id)) open(message, text); else text.innerHTML = message.html;
      const place = message.swipes.indexOf(message.id);
      const turn = (step) => doing(() => alone(async () => draw(await send(`${path}/leaf`, { message: message.swipes[place + step] }))));
      const tools = make("div", { className: "tools" });
      if (message.swipes.length > 1) tools.append(make("button", { title: "The one before", "aria-label": "Previous version", disabled: place === 0, onclick: turn(-1) }, "‹"), `${place + 1}/${message.swipes.length}`, make("button", { title: "The next one", "aria-label": "Next version", disabled: place + 1 === message.swipes.length, onclick: turn(1) }, "›"));
      tools.append(make("button", { className: "always", onclick: () => change(message, text) }, "Edit"));
      if (!mine && index === now.messages.length - 1 && now.messages.some((one) => one.role === "user")) tools.append(make("button", { onclick: again }, "Again"));
      if (mine && index === now.messages.length - 1) tools.append(make("button", { onclick: again }, "Answer"));
      const trace = message.trace && make("details", { className: "trace" }, make("summary", {}, `${message.trace.tokens} tokens, ${message.trace.lore.length} lorebook entries`), make("pre", {}, JSON.stringify(message.trace, null, 1)));
      return make("div", { className: `message ${message.role}` }, make("div", { className: "who" }, mine ? now.user_name : `${now.character_name}${message.model ? ` · ${message.model}` : ""}`), text, tools, trace || null);
    }));
    // A field that is put elsewhere loses the keyboard.
    if (log.contains(focused)) focused.focus();
    log.scrollTop = log.scrollHeight;
  };
  const change = (message, text) => {
    if (!edits.has(message.id)) edits.set(message.id, make("textarea", { rows: 4, value: message.content, "aria-label": "New words" }));
    open(message, text);
    edits.get(message.id).focus();
  };
  const open = (message, text) => {
    const area = edits.get(message.id);
    const save = doing(() => alone(async () => {
      const now = await send(`${path}/branch`, { message: message.id, content: area.value });
      edits.delete(message.id);
      draw(now);
    }));
    const leave = () => { edits.delete(message.id); text.innerHTML = message.html; };
    text.replaceChildren(area, make("div", { className: "tools" }, make("button", { onclick: save }, "Save as a branch"), make("button", { className: "always", onclick: leave }, "Leave it")));
  };

  form.addEventListener("submit", doing(() => alone(async () => {
    const content = words.value.trim();
    if (!content) return;
    words.value = "";
    log.append(bubble("user", session.user_name, content));
    // The first one is nobody; its own adapter has no name either.
    if (other.selectedIndex > 0) { await compare(content); return; }
    const waiting = bubble("assistant", session.character_name, "");
    log.append(waiting);
    log.scrollTop = log.scrollHeight;
    try { await stream(`${path}/messages`, { content, model: model.value }, waiting); } finally { await redraw(); }
  })));

  /** The same message answered by two models, side by side; which is better is kept for training. */
  const compare = async (content) => {
    const [left, right] = [model, other].map((chosen) => bubble("assistant", chosen.selectedOptions[0].label, ""));
    const pair = make("div", { className: "compare" }, left, right);
    log.append(pair);
    log.scrollTop = log.scrollHeight;
    const first = await stream(`${path}/messages`, { content, model: model.value }, left);
    const second = await stream(`${path}/answers`, { model: other.value }, right);
    const prefer = (chosen, rejected) => doing(() => alone(async () => {
      await send("/v1/preferences", { session: id, chosen, rejected });
      draw(await send(`${path}/leaf`, { message: chosen }));
      tell("Kept: /v1/preferences has it for training.");
    }));
    left.append(make("div", { className: "tools" }, make("button", { onclick: prefer(first, second) }, "This one is better")));
    right.append(make("div", { className: "tools" }, make("button", { onclick: prefer(second, first) }, "This one is better")));
    log.scrollTop = log.scrollHeight;
  };

  const keep = make("button", { onclick: doing(() => download(`${path}/export`, `${session.character_name}.jsonl`)) }, "Export");
  const head = make("div", { className: "row" }, avatar(session.character_id), make("h1", {}, make("a", { href: `#/character/${session.character_id}` }, session.character_name)), keep);
  show(session.character_name, make("div", { className: "chat" }, head, log, form));
  draw(session);
  words.focus();
}

/** `1234.5` seconds as a person says it. */
function duration(seconds) {
  if (seconds < 60) return `${seconds.toFixed(1)} s`;
  const minutes = Math.floor(seconds / 60);
  return minutes < 60 ? `${minutes} min ${Math.round(seconds % 60)} s` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

function stateOf(run) {
  return make("span", { className: `state ${run.state}` }, run.state);
}

function progressOf(run) {
  const now = run.progress;
  if (!now) return null;
  const id = "progress";
  return make("div", {}, make("label", { htmlFor: id }, `${now.stage}: ${now.done} of ${now.total}`),
    make("progress", { id, max: Math.max(now.total, 1), value: now.done }), make("p", { className: "quiet" }, now.message));
}

async function runs() {
  const { data, folder } = await get("/v1/runs");
  const rows = data.map((run) => make("li", {}, make("a", { href: `#/run/${encodeURIComponent(run.id)}` }, make("b", {}, run.id), " ", stateOf(run)),
    make("p", { className: "quiet" }, [run.title, new Date(run.updated * 1000).toLocaleString(), run.progress && `${run.progress.stage} ${run.progress.done} of ${run.progress.total}`].filter(Boolean).join(" · "))));
  show("Runs", make("section", { className: "panel" }, make("h1", {}, "Runs"),
    rows.length ? make("ul", { className: "runs" }, ...rows) : make("p", { className: "quiet" }, "None yet in ", make("code", {}, folder ?? "runs"), ". ", make("code", {}, "opencharacter run recipe.toml"), " makes one; ", make("code", {}, "serve --runs DIR"), " looks elsewhere.")));
}

const SVG = "http://www.w3.org/2000/svg";
function draw(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A few round numbers from `low` to `high`. */
function ticks(low, high) {
  const rough = (high - low) / 5 || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= rough);
  const marks = [];
  for (let mark = Math.ceil(low / step) * step; mark <= high + step * 1e-9; mark += step) marks.push(Number(mark.toPrecision(6)));
  return marks;
}

/** Training and held-out loss by step. */
function lossCurve(run) {
  const steps = run.loss.filter((point) => typeof point.loss === "number");
  if (!steps.length) return null;
  const before = run.training?.held_out_before;
  const heldOut = run.loss.filter((point) => typeof point.held_out_loss === "number").map((point) => [point.step, point.held_out_loss]);
  if (typeof before === "number") heldOut.unshift([0, before]);
  const trained = steps.map((point) => [point.step, point.loss]);
  const values = [...trained, ...heldOut].map(([, value]) => value);
  const [low, high] = [Math.min(...values), Math.max(...values)];
  const [first, last] = [heldOut.length ? Math.min(heldOut[0][0], trained[0][0]) : trained[0][0], Math.max(trained.at(-1)[0], 1)];
  const [width, height, left, right, top, bottom] = [640, 260, 46, 12, 12, 34];
  const x = (step) => left + ((step - first) / Math.max(last - first, 1)) * (width - left - right);
  const y = (value) => height - bottom - ((value - low) / (high - low || 1)) * (height - top - bottom);
  const path = (points) => points.map(([step, value], index) => `${index ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const grid = ticks(low, high).flatMap((mark) => [draw("line", { class: "grid", x1: left, x2: width - right, y1: y(mark), y2: y(mark) }), draw("text", { x: left - 6, y: y(mark) + 4, "text-anchor": "end" }, String(mark))]);
  const below = ticks(first, last).map((mark) => draw("text", { x: x(mark), y: height - 14, "text-anchor": "middle" }, String(mark)));
  const label = `Loss by step: from ${trained[0][1].toFixed(3)} to ${trained.at(-1)[1].toFixed(3)}${heldOut.length ? `, held out from ${heldOut[0][1].toFixed(3)} to ${heldOut.at(-1)[1].toFixed(3)}` : ""}`;
  const picture = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label, class: "plot" }, ...grid, ...below,
    draw("path", { class: "trained", d: path(trained) }), draw("path", { class: "held", d: path(heldOut) }),
    ...heldOut.map(([step, value]) => draw("circle", { class: "held", cx: x(step), cy: y(value), r: 3.5 })));
  return make("section", { className: "panel" }, make("h2", {}, "Loss per token, by step"), picture,
    make("p", { className: "legend" }, make("span", { className: "trained" }, "training"), heldOut.length ? make("span", { className: "held" }, "held out") : null));
}

const number = (value) => (typeof value === "number" ? value.toFixed(3) : "–");
const within = (estimate) => (typeof estimate?.low === "number" ? `[${number(estimate.low)}, ${number(estimate.high)}]` : "");

/** What a run measured: two models side by side, or one on a benchmark's tasks. */
function scoresOf(scores) {
  if (!scores) return null;
  const words = (name) => String(name).replaceAll("_", " ");
  const compared = (scores.measures ?? []).map((one) => [words(one.name), number(one.base?.mean), number(one.tuned?.mean), number(one.difference?.mean), within(one.difference)]);
  const measured = [...(scores.tasks ?? []), ...(scores.composites ?? [])].filter((one) => one.estimate).map((one) => [words(one.task ?? one.name), number(one.estimate.mean), within(one.estimate), one.estimate.n_characters]);
  const [head, rows] = compared.length ? [["measure", "base", "tuned", "change", "95% interval"], compared] : [["task", "score", "95% interval", "characters"], measured];
  if (!rows.length) return null;
  const line = (tag, cells) => make("tr", {}, ...cells.map((cell, index) => make(index ? tag : "th", index ? {} : { scope: tag === "th" ? "col" : "row" }, String(cell))));
  return make("section", { className: "panel" }, make("h2", {}, "Scores"), make("div", { className: "wide" },
    make("table", {}, make("thead", {}, line("th", head)), make("tbody", {}, ...rows.map((row) => line("td", row))))));
}

/** What is trained of a dialogue: those words are marked. */
function masksOf(masks) {
  if (!Array.isArray(masks) || !masks.length) return null;
  const text = make("div", { className: "masks" });
  const choose = make("select", { id: "example" }, ...masks.map((one, index) => make("option", { value: index }, one.id)));
  const fill = () => {
    // Tokens of one kind that follow each other are one mark to a screen reader, and separate boxes to the eye.
    const groups = [];
    for (const piece of masks[Number(choose.value)].pieces) {
      if (groups.at(-1)?.trained !== piece.trained) groups.push({ trained: piece.trained, pieces: [] });
      groups.at(-1).pieces.push(make("span", {}, piece.text));
    }
    text.replaceChildren(...groups.map((group) => make(group.trained ? "mark" : "span", {}, ...group.pieces)));
  };
  choose.addEventListener("change", fill);
  fill();
  return make("details", { className: "panel" }, make("summary", {}, "What is trained"), make("label", { htmlFor: "example" }, "Dialogue"), choose,
    make("p", { className: "quiet" }, "Marked tokens are predicted in training; the others are only read. A box is a token."), text);
}

async function run(id) {
  const path = `/v1/runs/${encodeURIComponent(id)}`;
  let now = await get(path);
  const live = make("div", {});
  const masks = masksOf(now.masks);
  const fill = () => {
    const seconds = Object.entries(now.seconds ?? {}).filter(([, value]) => typeof value === "number");
    // A link carries no key; where one is needed the report is fetched and kept as a file.
    const report = key ? make("button", { onclick: doing(() => download(`${path}/report`, `${id}.html`)) }, "Download the report")
      : make("a", { className: "button", href: `${path}/report`, target: "_blank", rel: "noopener" }, "Open the report");
    live.replaceChildren(...[
      make("section", { className: "panel" }, make("h1", {}, id, " ", stateOf(now)), now.title ? make("p", {}, now.title) : null, progressOf(now),
        seconds.length ? make("p", { className: "quiet" }, seconds.map(([stage, value]) => `${stage} ${duration(value)}`).join(" · ")) : null,
        now.report ? report : null),
      lossCurve(now), scoresOf(now.scores)].filter(Boolean));
  };
  fill();
  show(id, live, ...(masks ? [masks] : []));
  const page = shownPages;
  while (now.state === "running") {
    await new Promise((resolve) => setTimeout(resolve, 2000));
    if (page !== shownPages) return;
    const later = await get(path).catch(() => null);
    if (page !== shownPages) return;
    if (later) { now = later; fill(); }
  }
}

async function route() {
  stopAnswer?.abort();
  const [, kind, id] = location.hash.split("/");
  try {
    if (kind === "character") await character(decodeURIComponent(id));
    else if (kind === "chat") await chat(decodeURIComponent(id));
    else if (kind === "runs") await runs();
    else if (kind === "run") await run(decodeURIComponent(id));
    else await gallery();
  } catch (error) {
    show("", make("div", { className: "panel" }, make("h1", {}, "That did not work"), make("p", {}, error.message), make("a", { href: "#/" }, "To the characters")));
  }
}

addEventListener("hashchange", () => { route().then(() => main.focus({ preventScroll: true })); });
route();
