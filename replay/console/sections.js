// What each section shows of what the server has told of it: { said, looked_at, problem } and the server's clock in, nodes out.

import { ago, badge, bytes, facts, h, look, moment, note, plural, rate, share, short, span, sparkline, table, ticks, time, whole, words } from "./drawing.js";

// A section that can't be read says why, and what was last known.
function told(of, now, draw) {
  const out = [];
  if (of.problem) out.push(h("p", { class: "note bad" }, badge("bad", "can't be read"), " ", words(of.problem)));
  if (of.said) out.push(...draw(of.said, now).flat(Infinity));
  else if (!of.problem) out.push(h("p", { class: "muted" }, "being read…"));
  if (of.problem && of.said) out.push(h("p", { class: "muted" }, `What is shown was so ${ago(of.looked_at, now)}.`));
  return out;
}

export const attention = (board) =>
  board.attention.length
    ? [h("ul", { class: "attend" }, board.attention.map((one) => h("li", { class: one.level }, badge(one.level, one.level === "bad" ? "wrong" : "look"), " ", h("a", { href: `#${one.section}` }, NAMES[one.section] ?? one.section), " ", h("span", {}, words(one.what)))))]
    : [h("p", { class: "well" }, badge("ok", "well"), " Nothing is known to be wrong.")];

const NAMES = { flows: "Flows", letters: "Late and dead", requests: "Serving", models: "Models", checks: "Checks", replays: "Checkpoints" };

export function tiles(board) {
  const { now } = board;
  const flows = board.flows.said?.flows ?? [];
  const features = flows.filter((flow) => flow.flow !== "examples");
  const actions = flows.find((flow) => flow.flow === "actions");
  const counts = board.flows.said?.counts ?? {};
  const waiting = features.map((flow) => flow.waiting_since).filter((at) => at !== null);
  const lags = features.map((flow) => flow.lag).filter((lag) => lag !== null);
  const served = board.requests.said?.endpoints ?? [];
  const perSecond = served.map((one) => one.rate).filter((one) => one !== null);
  const slowest = served.map((one) => one.p99_ms).filter((one) => one !== null);
  const arm = board.requests.said?.model.arms?.served;
  const dead = Object.entries(counts).filter(([name]) => name.startsWith("deadletter.")).reduce((sum, [, n]) => sum + n, 0);
  const oldest = waiting.length ? now - Math.min(...waiting) : null;
  const lag = lags.length ? lags.reduce((a, b) => a + b, 0) : null;
  const tile = (name, value, under, level) => h("div", { class: level ? `tile ${level}` : "tile" }, h("dt", {}, name), h("dd", {}, value, h("small", {}, under)));
  return [
    tile("Events", rate(actions?.rate), `${short(counts.records ?? null)} in all`),
    tile("Lag", lag === null ? "–" : short(lag), "not in features yet"),
    tile("Freshness", oldest === null ? (lag === 0 ? "current" : "–") : span(oldest), oldest === null ? "no event waits" : "the oldest waits", oldest > 60000 ? "bad" : ""),
    tile("Watermark", actions?.watermark ? span(now - actions.watermark) : "–", actions?.watermark ? "behind the clock" : "no event yet"),
    tile("Late", short(counts.late ?? (counts.records ? 0 : null)), counts.records ? `${share((counts.late ?? 0) / counts.records, 2)} of all` : "records"),
    tile("Dead letters", short(counts.records ? dead : null), counts.records ? `${share(dead / counts.records, 2)} of all` : "records"),
    tile("Requests", perSecond.length ? rate(perSecond.reduce((a, b) => a + b, 0)) : "–", slowest.length ? `p99 up to ${Math.max(...slowest).toFixed(0)} ms` : "of the last minute"),
    tile("Model", arm ? `base ${arm.base}` : "none", arm ? `delta ${whole(arm.delta)}` : "nothing is ranked"),
  ];
}

// Flows ---------------------------------------------------------------------------------------------------------------------------

export const flows = (of, now) =>
  told(of, now, (said) => {
    if (said.source === "nothing") return [note("Nothing has been applied in this data directory yet. ", h("code", {}, "tidemark run --follow"), " applies what the log holds, and goes on with it.")];
    return [
      h("p", { class: "muted" }, `Read from ${said.source}; logs are ${said.logs === "embedded" ? "embedded" : `topics of Kafka at ${said.logs}`}.`),
      table(
        "Flows",
        [["flow", ""], ["", ""], ["rate", "n"], ["", "plot wide"], ["lag", "n"], ["", "plot wide"], ["oldest waits", "n"], ["watermark", "n wide"], ["state", "n wide"]],
        said.flows.map((flow) => [
          h("strong", {}, flow.flow),
          flow.running === null ? badge("", "elsewhere") : flow.running ? badge("ok", "running") : badge(flow.lag ? "bad" : "", "not running"),
          rate(flow.rate),
          sparkline(flow.history.map((point) => [point.at, point.rate])),
          short(flow.lag),
          sparkline(flow.history.map((point) => [point.at, point.lag])),
          flow.flow === "examples" ? "–" : flow.waiting_since === null ? (flow.lag === 0 ? "none" : "–") : span(now - flow.waiting_since),
          time(flow.watermark),
          bytes(flow.bytes),
        ]),
      ),
      said.flows.map((flow) =>
        h(
          "details",
          { "data-key": `tasks-${flow.flow}` },
          h("summary", {}, `${flow.flow}: ${plural(flow.tasks.length, "task")}`, flow.tasks.some((task) => task.problem || task.handed_over) ? [" ", badge("bad", "look")] : null),
          table(
            `Tasks of ${flow.flow}`,
            [["partition", "n"], ["position", "n"], ["end", "n wide"], ["lag", "n"], ["rate", "n"], ["oldest waits", "n wide"], ["watermark", "n"], ["state", "n wide"], ["", ""]],
            flow.tasks.map((task) => [task.partition, whole(task.position), whole(task.end), whole(task.lag), rate(task.rate), task.waiting_since === null ? "–" : span(now - task.waiting_since), time(task.watermark), bytes(task.bytes), task.problem ? badge("bad", "can't be read") : task.handed_over ? badge("look", "being replaced") : ""]),
          ),
        ),
      ),
    ];
  });

// Late and dead letters -----------------------------------------------------------------------------------------------------------

const none = (shown, offsets) => (shown.length ? null : h("p", { class: "muted" }, offsets === null ? "No flow has put out any: there is no such log yet." : offsets ? "None at the end of the log." : "None."));

export const letters = (of, now, board) =>
  told(of, now, (said) => {
    const counts = board.flows.said?.counts ?? {};
    const reasons = Object.entries(counts).filter(([name]) => name.startsWith("deadletter.")).sort(([, a], [, b]) => b - a);
    return [
      h("h3", {}, "Dead letters"),
      none(said.dead, said.dead_offsets),
      reasons.length ? h("ul", { class: "chips" }, reasons.map(([name, n]) => h("li", {}, h("b", {}, whole(n)), " ", name.slice("deadletter.".length)))) : null,
      said.dead.length
        ? h("ul", { class: "samples" }, said.dead.map((letter) => h("li", { "data-key": letter.id }, h("details", {}, h("summary", {}, h("span", { class: "what" }, badge("", letter.reason), " ", letter.detail), h("small", {}, `${letter.id} · ${moment(letter.arrived)}`)), h("pre", { tabindex: "0", "aria-label": `record ${letter.id}` }, letter.raw), h("p", { class: "muted" }, `${plural(letter.size, "byte")}; `, h("code", {}, `tidemark deadletters show ${letter.id}`))))))
        : null,
      h("h3", {}, "Late records"),
      none(said.late, said.late_offsets),
      said.late.length
        ? table("The newest late records", [["event time", ""], ["late by", "n"], ["action", ""], ["user", "id"], ["pin", "id"]], said.late.map((row) => [time(row.event_time, false), span(row.lateness_ms), row.action, look("user", row.user_id), look("pin", row.pin_id)]))
        : null,
    ];
  });

// Models --------------------------------------------------------------------------------------------------------------------------

const METRICS = ["auc", "gauc", "logloss", "hit@3"];
const figure = (x) => (x === null || x === undefined ? "–" : x.toFixed(4));

function evaluation(found) {
  const heads = found.heads.filter((head) => METRICS.some((name) => head.values[name] !== undefined));
  return [
    h("p", {}, badge(found.passed ? "ok" : "bad", found.passed ? "passed" : "refused"), " ", found.reason),
    heads.length
      ? table(
          "What the gate has measured, on examples that were new to it",
          [["head", ""], ...METRICS.map((name) => [name, "n"])],
          heads.map((head) => [head.head, ...METRICS.map((name) => [figure(head.values[name]), head.against ? h("small", {}, figure(head.against[name])) : null])]),
        )
      : null,
    heads.some((head) => head.against) ? h("p", { class: "muted" }, `Small: the base that was served then.${found.rows === null ? "" : ` ${plural(found.rows, "example")}.`}`) : null,
  ];
}

export const models = (of, now, board) =>
  told(of, now, (said) => {
    const arms = Object.entries(board.requests.said?.model.arms ?? {});
    const learner = said.learner;
    const embedding = board.requests.said?.embedding;
    return [
      said.note ? note(words(said.note)) : null,
      facts([
        arms.length && ["ranking here", arms.map(([arm, m]) => h("span", { class: "pair" }, `${arm}: base ${m.base}, delta ${whole(m.delta)}`, m.newest_event_time ? `, to ${moment(m.newest_event_time)}` : ""))],
        said.shares.length && ["shares", said.shares.map((one) => h("span", { class: "pair" }, `${one.role}: base ${one.base}, ${share(one.share, 2)} of users`))],
        learner && ["learner", learner.running ? badge("ok", "running") : badge("", "not running"), ` delta ${whole(learner.delta)}`, learner.newest_event_time ? `, events to ${moment(learner.newest_event_time)}` : "", learner.lag === null ? "" : `, ${plural(learner.lag, "example")} behind`],
        said.retrain && ["retrain", badge(said.retrain.running ? "ok" : "look", said.retrain.running ? "at work" : "stopped"), ` as of ${moment(said.retrain.as_of, false)}: ${said.retrain.stage}`],
        (embedding?.version || embedding?.trouble) && ["embedding", embedding.trouble ? [badge("bad", "in trouble"), " "] : null, embedding.version ? `version ${embedding.version}` : "none is served"],
      ]),
      said.bases.length
        ? table(
            "Bases, the newest first",
            [["base", "n"], ["is", ""], ["made as of", "n"], ["from", "n wide"], ["size", "n wide"], ["newest snapshot", "n wide"], ["gate", ""]],
            said.bases.map((base) => [base.base, base.roles.map((role) => badge(role === "served" ? "ok" : "", role)), time(base.made_as_of, false), base.parent ?? "–", bytes(base.bytes), base.newest_snapshot === null ? "–" : `delta ${whole(base.newest_snapshot)}`, base.problem ? badge("bad", "can't be served") : base.evaluation ? badge(base.evaluation.passed ? "ok" : "bad", base.evaluation.passed ? "passed" : "refused") : "not asked"]),
          )
        : null,
      said.more_bases ? h("p", { class: "muted" }, `and ${plural(said.more_bases, "older base")}: `, h("code", {}, "tidemark models list")) : null,
      said.bases.filter((base) => base.evaluation || base.problem).slice(0, 3).map((base) => h("details", { "data-key": `base-${base.base}` }, h("summary", {}, `Base ${base.base}: ${base.problem ? "why it can't be served" : "its evaluation"}`), base.problem ? h("p", { class: "bad" }, words(base.problem)) : null, base.evaluation ? evaluation(base.evaluation) : null)),
      said.refused?.evaluation ? h("details", { "data-key": "refused" }, h("summary", {}, `The last that was refused, as of ${moment(said.refused.made_as_of, false)}`), evaluation(said.refused.evaluation)) : null,
      said.switches.length ? h("details", { "data-key": "switches" }, h("summary", {}, "What was served before"), table("Switches, the latest first", [["from", ""], ["base", "n"], ["delta", "n"], ["why", ""]], said.switches.map((one) => [time(one.at), one.base, whole(one.delta), one.reason]))) : null,
    ];
  });

// Serving -------------------------------------------------------------------------------------------------------------------------

export const requests = (of, now) =>
  told(of, now, (said) => [
    facts([
      ["store", said.trouble ? badge("bad", "does not answer") : badge("ok", "answers"), ` ${said.store}`],
      ["kept in SERVED", said.log_trouble ? badge("bad", "in trouble") : "", ` ${plural(said.kept, "row")}`, said.lost ? h("span", { class: "bad" }, `, ${whole(said.lost)} lost`) : ""],
      ["waiting", plural(said.waiting, "request")],
      ["up", span(said.up_s * 1000)],
      ["features", h("code", {}, said.fingerprint)],
    ]),
    said.endpoints.length
      ? table("Requests by what they ask for", [["asked for", ""], ["rate", "n"], ["p50, ms", "n"], ["p99, ms", "n"], ["in all", "n"], ["failed", "n"]], said.endpoints.map((one) => [one.endpoint, rate(one.rate), one.p50_ms === null ? "–" : `≤ ${one.p50_ms}`, one.p99_ms === null ? "–" : `≤ ${one.p99_ms}`, whole(one.requests), one.failed ? h("span", { class: "bad" }, whole(one.failed)) : "0"]))
      : h("p", { class: "muted" }, "Nobody has asked for anything since this server's start."),
  ]);

// Checks --------------------------------------------------------------------------------------------------------------------------

// `proved`: whether all of it was compared, and each was equal; causes that are nobody's mistake are no findings, and still no equality.
function check(name, round, command, now, proved, draw) {
  if (!round) return [h("h3", {}, name), h("p", { class: "muted" }, "Never done over this data directory: ", h("code", {}, command))];
  const { said } = round;
  const wrong = said.problem || said.mismatches || said.findings || said.problems?.length;
  const [level, verdict] = wrong ? ["bad", "look"] : said.unproved || said.entities === 0 ? ["look", "nothing proved"] : proved(said) ? ["ok", "equal to the bit"] : ["", "nothing wrong found"];
  return [
    h("h3", {}, name, " ", badge(level, verdict), h("small", {}, ago(round.told_at, now))),
    said.problem ? h("p", { class: "bad" }, words(said.problem)) : draw(said),
  ];
}

export const checks = (of, now) =>
  told(of, now, (said) => [
    check("Audit: is state what the log says?", said.audit, "tidemark replay audit --follow", now, (found) => found.complete === found.tasks, (found) => [
      h("p", {}, `${plural(found.entities, "entity", "entities")} of ${found.complete} of ${plural(found.tasks, "task")} recomputed from the log: ${plural(found.mismatches, "mismatch", "mismatches")}.`),
      found.examples?.length ? h("ul", { class: "lines" }, found.examples.map((line) => h("li", { class: "bad" }, words(line)))) : null,
      found.problems?.length ? h("ul", { class: "lines" }, found.problems.map((line) => h("li", { class: "bad" }, words(line)))) : null,
    ]),
    check("Skew: was what was served what the log says?", said.skew, "tidemark skew check --every 300", now, (found) => found.differing === 0 && found.apart === 0, (found) => [
      h("p", {}, `${plural(found.compared, "row")} of ${plural(found.records, "record")} compared: ${whole(found.differing)} differ, ${whole(found.apart)} could not be compared; ${plural(found.findings, "finding")}.`),
      found.unproved ? h("p", { class: "muted" }, found.unproved) : null,
      found.first_request ? h("p", { class: "muted" }, `Requests of ${moment(found.first_request)} to ${moment(found.last_request)}.`) : null,
      found.causes?.length ? table("Causes of differences", [["cause", ""], ["rows", "n"], ["", ""]], found.causes.map((one) => [one.cause, whole(one.rows), h("span", { class: one.benign ? "muted" : "bad" }, one.meaning)])) : null,
      found.features?.length ? table("Features that match least", [["feature", ""], ["equal", "n"]], found.features.map((one) => [one.feature, share(one.match_rate, 3)])) : null,
    ]),
  ]);

// Checkpoints and replays -----------------------------------------------------------------------------------------------------------

export const replays = (of, now) =>
  told(of, now, (said) => {
    const made = said.tasks.filter((task) => task.made_at !== null);
    const oldest = made.length ? Math.min(...made.map((task) => task.made_at)) : null;
    const behind = said.tasks.map((task) => task.to_replay).filter((n) => n !== null);
    return [
      said.work.length ? h("ul", { class: "lines" }, said.work.map((one) => h("li", {}, badge(one.running ? "ok" : "look", one.running ? `${one.kind} at work` : `${one.kind} stopped`), " ", one.what, one.begun_at ? h("small", {}, ` begun ${ago(one.begun_at, now)}`) : ""))) : h("p", { class: "muted" }, "No restore, rebuild or checkpoint is at work."),
      facts([
        ["checkpoints in", h("code", {}, said.place)],
        ["newest of each task", made.length ? `at most ${span(now - oldest)} old, of ${made.length} of ${plural(said.tasks.length, "task")}` : h("span", {}, "none yet: ", h("code", {}, "tidemark replay checkpoint --every 3600"))],
        behind.length && ["a restore of all", `goes through ${plural(behind.reduce((a, b) => a + b, 0), "record")}`],
      ]),
      said.tasks.length
        ? h("details", { "data-key": "kept" }, h("summary", {}, plural(said.tasks.length, "task")), table("Checkpoints by task", [["task", ""], ["kept", "n"], ["newest", "n"], ["made", "n"], ["to replay", "n"]], said.tasks.map((task) => [task.task, task.kept, whole(task.newest), task.made_at === null ? "–" : ago(task.made_at, now), whole(task.to_replay)])))
        : null,
      said.corrections.length ? table("Corrections, the newest first", [["no.", "n"], ["made", "n"], ["by", "wide"], ["what", ""], ["records", "n"], ["", ""]], said.corrections.map((one) => [one.number, time(one.made_at, false), one.author, one.reason, whole(one.excluded + one.patched), one.in_force ? badge("ok", "in force") : badge("", "undone")]), { shown: true }) : null,
      said.more_corrections ? h("p", { class: "muted" }, `and ${plural(said.more_corrections, "older correction")}: `, h("code", {}, "tidemark replay status")) : null,
    ];
  });

// A user, a pin, a topic ------------------------------------------------------------------------------------------------------------

export function looked(found, now) {
  const number = (x) => (Number.isInteger(x) ? whole(x) : x.toFixed(4));
  const actions = [...new Set(found.sequence.map((entry) => entry.action))];
  const times = found.sequence.map((entry) => entry.event_time);
  const [begin, end] = [Math.min(...times), Math.max(...times)];
  return [
    h("h3", {}, `${found.kind} `, h("code", { class: "id" }, found.asked), " ", badge(found.found ? "ok" : "", found.found ? "known" : "nothing is known of it")),
    facts([
      found.id !== null && found.id !== found.asked && ["inside", h("code", {}, found.id)],
      ["as of", time(found.as_of), found.as_of === null ? " before the first event" : ` (${ago(found.as_of, now)})`],
      found.partition !== null && ["reflects", `partition ${found.partition} to position ${whole(found.position)}`],
    ]),
    table("Counters by window", [["counter", ""], ...found.windows.map((name) => [name, "n"])], found.rows.map((row) => [row.name, ...row.values.map((x, i) => h("span", { title: row.features[i] }, number(x)))])),
    found.sequence.length
      ? [
          h("h4", {}, `Last ${plural(found.sequence.length, "action")}`),
          h("div", { class: "timeline" }, actions.map((action) => h("div", {}, h("span", {}, action), ticks(found.sequence.filter((entry) => entry.action === action).map((entry) => entry.event_time), begin, end), h("b", {}, found.sequence.filter((entry) => entry.action === action).length))), h("p", { class: "muted ends" }, h("span", {}, moment(begin, false)), h("span", {}, moment(end, false)))),
          table("Action sequence, the newest first", [["when", ""], ["action", ""], ["surface", "wide"], ["pin", "id"], ["for", "n"]], found.sequence.map((entry) => [time(entry.event_time), entry.action, entry.surface, look("pin", entry.pin_id), entry.duration_ms ? span(entry.duration_ms) : "–"]), { tall: true }),
        ]
      : found.kind === "user"
        ? h("p", { class: "muted" }, "No actions in the sequence.")
        : null,
  ];
}
