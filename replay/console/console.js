// The page's course: it asks every two seconds while somebody looks, shows what has changed, and asks for a token where the server does.

import { h, show } from "./drawing.js";
import * as sections from "./sections.js";

const API = "/v1/console";
const EACH_MS = 2000;
const LONGEST_MS = 15000;
const PATIENCE_MS = 10000;
const TOKEN = "tidemark-token";
const THEME = "tidemark-theme";
const DRAWN = ["flows", "letters", "requests", "models", "checks", "replays"];

const by = (id) => document.getElementById(id);

let token = null;
let timer = null;
let failures = 0;
let asked = 0;
let looking = null;
let serverAhead = 0;

// What the browser can't keep (in some modes it refuses) lasts as long as the page.
const kept = {
  get(store, name) {
    try {
      return store().getItem(name);
    } catch {
      return null;
    }
  },
  set(store, name, value) {
    try {
      if (value === null) store().removeItem(name);
      else store().setItem(name, value);
    } catch {
      // Nothing is lost with it.
    }
  },
};
const session = () => window.sessionStorage;
const local = () => window.localStorage;

class Refused extends Error {}

async function ask(path) {
  const headers = token === null ? {} : { Authorization: `Bearer ${token}` };
  const answer = await fetch(path, { headers, cache: "no-store", credentials: "omit", signal: AbortSignal.timeout(PATIENCE_MS) });
  if (answer.status === 401) throw new Refused();
  const said = await answer.json();
  if (!answer.ok) throw new Error(`${said.error}; ${said.what_to_do}`);
  return said;
}

// The board -----------------------------------------------------------------------------------------------------------------------

function pulse(state, text) {
  const at = by("pulse");
  at.dataset.state = state;
  // Said only where it changes: it is read out.
  if (at.textContent !== text) at.textContent = text;
}

async function turn() {
  clearTimeout(timer);
  const mine = ++asked;
  try {
    const board = await ask(API);
    if (mine !== asked) return;
    failures = 0;
    serverAhead = board.now - Date.now();
    // Not before a server has taken it.
    if (token !== null) kept.set(session, TOKEN, token);
    opened(true);
    if (drawn(board)) pulse("live", "live");
    if (looking) await lookAgain();
  } catch (error) {
    if (mine !== asked) return;
    if (error instanceof Refused) {
      locked();
      return;
    }
    failures += 1;
    pulse("lost", "the server does not answer; trying again");
  }
  if (mine === asked && !document.hidden) timer = setTimeout(turn, Math.min(LONGEST_MS, EACH_MS * 2 ** Math.min(failures, 5)));
}

// A fault of this page's own is none of the server's, and is told as what it is.
function drawn(board) {
  try {
    draw(board);
    return true;
  } catch (error) {
    console.error(error);
    pulse("lost", "this page can't draw what the server says; load it again, or see the browser's console");
    return false;
  }
}

function draw(board) {
  by("where").textContent = `${board.data} · ${board.version}`;
  document.title = board.attention.some((one) => one.level === "bad") ? "! Tidemark console" : "Tidemark console";
  show(by("attention"), sections.attention(board));
  show(by("tiles"), sections.tiles(board));
  for (const name of DRAWN) show(by(name).querySelector(".body"), sections[name](board[name], board.now, board));
  by("board").dataset.now = board.now;
}

// The token -----------------------------------------------------------------------------------------------------------------------

function opened(is) {
  by("board").hidden = !is;
  by("sections").hidden = !is;
  by("login").hidden = is;
}

function locked() {
  const wasShown = !by("login").hidden;
  by("login-error").textContent = token === null ? "" : "That is not the token of this server.";
  token = null;
  kept.set(session, TOKEN, null);
  opened(false);
  pulse("wait", "a token is asked for");
  if (!wasShown || by("login-error").textContent) by("token").focus();
}

function tryToken(text) {
  token = text;
  // No header can carry other signs, so it is none that a server has.
  if (/^[!-~]+$/.test(token)) {
    turn();
    return;
  }
  clearTimeout(timer);
  asked += 1;
  locked();
}

by("login").addEventListener("submit", (event) => {
  event.preventDefault();
  const given = by("token").value.trim();
  by("token").value = "";
  tryToken(given);
});

// Looking up ----------------------------------------------------------------------------------------------------------------------

const pathOf = ({ kind, id }) => `${API}/${kind}/${encodeURIComponent(id)}`;

async function lookAgain() {
  const wanted = looking;
  try {
    const found = await ask(pathOf(wanted));
    if (wanted !== looking) return;
    show(by("looked"), sections.looked(found, Date.now() + serverAhead));
    said(`${found.kind} ${found.asked}: ${found.found ? `known, ${found.sequence.length} actions` : "nothing is known"}`);
  } catch (error) {
    if (error instanceof Refused) throw error;
    if (wanted !== looking) return;
    show(by("looked"), h("p", { class: "note bad" }, error.message));
    said(error.message);
  }
}

function said(text) {
  if (by("looked-said").textContent !== text) by("looked-said").textContent = text;
}

async function lookUp(kind, id) {
  looking = { kind, id };
  by("kind").value = kind;
  by("id").value = id;
  history.replaceState(null, "", `#${kind}=${encodeURIComponent(id)}`);
  await lookAgain().catch(() => turn());
}

by("look").addEventListener("submit", (event) => {
  event.preventDefault();
  const id = by("id").value;
  if (id.trim() === "") {
    looking = null;
    show(by("looked"), h("p", { class: "note bad" }, "Give an ID: a whole number, or the text that was ingested."));
    said("Give an ID");
    by("id").focus();
    return;
  }
  lookUp(by("kind").value, id);
});

document.addEventListener("click", (event) => {
  const button = event.target instanceof Element ? event.target.closest("button[data-look]") : null;
  if (!button) return;
  lookUp(button.dataset.look, button.dataset.id);
  by("lookup").scrollIntoView({ block: "start" });
  by("id").focus({ preventScroll: true });
});

// The theme -----------------------------------------------------------------------------------------------------------------------

const THEMES = { auto: "as the system has it", light: "light", dark: "dark" };

function themed(name) {
  if (name === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  by("theme").textContent = name;
  by("theme").setAttribute("aria-label", `Theme: ${THEMES[name]}`);
}

by("theme").addEventListener("click", () => {
  const names = Object.keys(THEMES);
  const next = names[(names.indexOf(by("theme").textContent) + 1) % names.length];
  kept.set(local, THEME, next);
  themed(next);
});

// The beginning -------------------------------------------------------------------------------------------------------------------

function begin() {
  const theme = kept.get(local, THEME);
  themed(theme !== null && Object.hasOwn(THEMES, theme) ? theme : "auto");
  const own = kept.get(session, TOKEN);
  const given = heed() ?? own;
  if (given === null) turn();
  else tryToken(given);
}

// What stands behind the # never reaches a server, nor its logs; a token goes from the address at once, and is returned.
function heed() {
  const [name, value] = location.hash.slice(1).split(/=(.*)/s);
  if (value === undefined) return null;
  if (name === "token") {
    history.replaceState(null, "", location.pathname);
    return decoded(value) ?? "";
  }
  const id = decoded(value);
  if (["user", "pin", "topic"].includes(name) && id) {
    looking = { kind: name, id };
    by("kind").value = name;
    by("id").value = id;
  }
  return null;
}

// Who pastes an address into a tab that shows the page loads nothing anew.
window.addEventListener("hashchange", () => {
  const before = looking;
  const given = heed();
  if (given !== null) tryToken(given);
  else if (looking !== before) turn();
});

function decoded(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return null;
  }
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else if (by("login").hidden) turn();
});

begin();
