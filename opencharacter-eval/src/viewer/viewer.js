"use strict";
(() => {
  const PAGE = 40;
  const data = JSON.parse(document.getElementById("data").textContent);
  const field = (id) => document.getElementById(id);
  const names = ["q", "task", "who", "only", "sort"];
  const list = field("items");
  let found = [];
  let shown = 0;

  // Text only ever enters the page as text.
  const element = (tag, className, text) => {
    const made = document.createElement(tag);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = text;
    return made;
  };

  const words = (item) => {
    if (item.words === undefined) {
      const verdicts = item.verdicts.flatMap((verdict) => [verdict.judge, verdict.reason || ""]);
      const parts = [item.id, item.task, item.who, item.note, item.answer || "", item.missing || ""];
      item.words = parts.concat(item.messages.map((message) => message[1]), verdicts).join("\n").toLowerCase();
    }
    return item.words;
  };

  const text = (parent, label, content, className) => {
    parent.append(element("p", "label", label));
    const made = element("p", "text " + (className || ""), content);
    made.dir = "auto";
    parent.append(made);
  };

  const folded = (parent, label, fill) => {
    const details = element("details");
    details.append(element("summary", "", label));
    details.addEventListener("toggle", () => {
      if (details.open && details.childElementCount === 1) fill(details);
    });
    parent.append(details);
  };

  const verdict = (parent, given) => {
    const line = element("p", "verdict");
    const scored = given.status === "scored";
    line.append(element("span", scored ? "tag" : "tag worse", given.judge + ": " + (scored ? given.score : given.status)));
    line.append(" " + (given.reason || ""));
    parent.append(line);
    if (given.reply) folded(parent, "the reply, after " + given.attempts + (given.attempts === 1 ? " call" : " calls"), (into) => text(into, "", given.reply));
  };

  const card = (item) => {
    const article = element("article", "item");
    article.id = item.id;
    const heading = element("h3");
    heading.append(element("span", "value", item.shown), element("span", "", item.task));
    if (item.who) {
      const who = element("bdi", "note", item.who);
      heading.append(who);
    }
    if (item.turn !== undefined) heading.append(element("span", "tag", "after " + item.turn + " turns"));
    if (item.spread > 0) heading.append(element("span", "tag worse", "judges differ by " + item.spread));
    if (item.cut) heading.append(element("span", "tag", "cut off"));
    article.append(heading);
    const last = item.messages.length - 1;
    if (last >= 0) text(article, "Question", item.messages[last][1]);
    if (item.answer !== undefined) text(article, "Answer", item.answer === "" ? "(empty)" : item.answer, "answer");
    else article.append(element("p", "verdict warn", "No answer: " + item.missing));
    if (item.verdicts.length) article.append(element("p", "label", "Verdicts"));
    item.verdicts.forEach((given) => verdict(article, given));
    if (item.note) article.append(element("p", "note", item.note));
    if (item.references.length) folded(article, "References (" + item.references.length + ")", (into) => item.references.forEach((one, n) => text(into, String(n + 1), one)));
    if (item.exemplars.length) folded(article, "Sample answers that the judges saw", (into) => item.exemplars.forEach((one, n) => text(into, "a " + (n + 1), one)));
    if (item.prompt !== undefined || last > 0) {
      folded(article, "What the model was given", (into) => {
        if (item.prompt !== undefined) text(into, "system", data.prompts[item.prompt]);
        item.messages.forEach((message) => text(into, message[0], message[1]));
      });
    }
    article.append(element("p", "note", item.id));
    return article;
  };

  const orders = {
    spread: (a, b) => b.spread - a.spread,
    value: (a, b) => (a.value ?? Infinity) - (b.value ?? Infinity),
    high: (a, b) => (b.value ?? -Infinity) - (a.value ?? -Infinity),
    file: () => 0,
  };
  const tests = {
    missing: (item) => item.value === null,
    split: (item) => item.spread > 0,
    cut: (item) => item.cut,
  };

  const more = (count) => {
    const until = Math.min(found.length, shown + count);
    for (; shown < until; shown += 1) list.append(card(found[shown]));
    field("more").hidden = shown >= found.length;
    field("count").textContent = found.length + " of " + data.items.length + " items, " + shown + " shown";
  };

  const apply = () => {
    const wanted = field("q").value.trim().toLowerCase();
    const [task, who, only] = ["task", "who", "only"].map((id) => field(id).value);
    found = data.items.filter((item) =>
      (!task || item.task === task) && (!who || item.character === who) &&
      (!only || tests[only](item)) && (!wanted || words(item).includes(wanted)));
    found.sort(orders[field("sort").value] || orders.file);
    list.replaceChildren();
    shown = 0;
    more(PAGE);
  };

  const read = () => {
    const wanted = new URLSearchParams(location.hash.slice(1));
    for (const name of names) if (wanted.has(name)) field(name).value = wanted.get(name);
    for (const name of names) if (field(name).selectedIndex === -1) field(name).selectedIndex = 0;
  };

  const write = () => {
    const set = new URLSearchParams();
    for (const name of names) if (field(name).value && !(name === "sort" && field(name).selectedIndex === 0)) set.set(name, field(name).value);
    try { history.replaceState(null, "", "#" + set); } catch { /* a page opened from a disk may not */ }
  };

  field("filter").addEventListener("input", () => { write(); apply(); });
  field("filter").addEventListener("submit", (event) => event.preventDefault());
  field("more").addEventListener("click", () => more(PAGE));
  addEventListener("hashchange", () => { if (location.hash.includes("=")) { read(); apply(); } });
  read();
  apply();
})();
