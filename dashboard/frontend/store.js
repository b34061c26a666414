// Answers of the source, kept as long as their run has no new data.

const MOST = 600; // answers kept: a long session over many checks must not fill the memory

export class Store {
  constructor(source) {
    this.source = source;
    this.runs = [];
    this.kept = new Map();
  }

  /** Reads the list of runs; returns whether anything has changed. */
  async refresh() {
    const before = JSON.stringify(this.runs);
    this.runs = (await this.source.get("runs")).runs;
    return JSON.stringify(this.runs) !== before;
  }

  entry(run) {
    return this.runs.find((each) => each.name === run);
  }

  /** An answer about a run; asked again only if the run has new data. */
  async ask(path, parameters) {
    const revision = this.entry(parameters.run)?.revision;
    const name = `${path} ${JSON.stringify(parameters)}`;
    const found = this.kept.get(name);
    if (found && found.revision === revision) return found.answer;
    const answer = this.source.get(path, parameters).then((raw) => shaped(path, raw));
    this.kept.delete(name);
    this.kept.set(name, { revision, answer });
    if (this.kept.size > MOST) this.kept.delete(this.kept.keys().next().value);
    answer.catch(() => this.kept.get(name)?.answer === answer && this.kept.delete(name));
    return answer;
  }

  /** An answer, or null if there is none (404); other failures are thrown. */
  async maybe(path, parameters) {
    try {
      return await this.ask(path, parameters);
    } catch (error) {
      if (error.status === 404) return null;
      throw error;
    }
  }

  /** Address of a picture; it changes with the run's data, so that no browser shows an old one. */
  picture(parameters) {
    return this.source.picture(parameters, this.entry(parameters.run)?.revision ?? "");
  }
}

function shaped(path, raw) {
  if (path === "run") return described(raw);
  return path === "values" || path === "filters" ? table(raw.values) : raw;
}

/** A run whose quantities all have a title, a unit and bounds: those of a user's callback may not say them. */
function described(meta) {
  const whole = (one) => ({
    name: one.name,
    title: one.title || one.name.replaceAll("_", " "),
    unit: one.unit ?? "",
    low: one.low ?? null,
    high: one.high ?? null,
    meaning: one.meaning ?? "",
  });
  return { ...meta, families: meta.families.map((one) => ({ ...one, quantities: one.quantities.map(whole) })) };
}

/** A table of numbers with a row for each check: `values[check * columns + column]`, NaN where not measured. */
export function table(rows) {
  const columns = rows.length ? rows[0].length : 0;
  const values = new Float32Array(rows.length * columns);
  rows.forEach((row, check) => {
    for (let column = 0; column < columns; column++) values[check * columns + column] = row[column] ?? NaN;
  });
  return { rows: rows.length, columns, values };
}

/** One column of a table, over all checks. */
export function column(found, place) {
  return Array.from({ length: found.rows }, (_, check) => found.values[check * found.columns + place]);
}

/** One value; NaN outside the table, whose run may have grown since. */
export function at(found, check, place) {
  return check >= 0 && check < found.rows && place < found.columns ? found.values[check * found.columns + place] : NaN;
}
