// Where the data come from: the plugin's routes, or a report that carries their answers. All else asks only `get`.

/** Answers of the plugin, at addresses relative to this module, so that a path prefix or a notebook's proxy works. */
export function fetched(base) {
  const address = (path, parameters) => {
    const url = new URL(path, base);
    url.search = new URLSearchParams(parameters).toString();
    return url.href;
  };
  return {
    live: true,
    async get(path, parameters = {}) {
      const answer = await fetch(address(path, parameters), { headers: { Accept: "application/json" } });
      if (answer.ok) return answer.json();
      const problem = await answer.json().catch(() => null);
      throw Object.assign(new Error(problem?.error ?? `the server answered ${answer.status}`), {
        status: answer.status,
      });
    },
    picture: (parameters, revision) => address("picture", { ...parameters, revision }),
  };
}

/** The same answers from an object: `parts`, and `places` of the part of each `key(path, parameters)`; pictures in base64. */
export function embedded({ parts, places }) {
  const find = (path, parameters) => parts[places[key(path, parameters)]];
  return {
    live: false,
    async get(path, parameters = {}) {
      const found = find(path, parameters);
      if (found === undefined) throw Object.assign(new Error("this report does not hold it"), { status: 404 });
      return found;
    },
    picture: (parameters) => {
      const found = find("picture", parameters);
      return found === undefined ? "" : `data:image/png;base64,${found}`;
    },
  };
}

/** Name of an answer: `values?family=probe&quantity=accuracy&run=a`, parameters in alphabetical order, encoded. */
export function key(path, parameters = {}) {
  const names = Object.keys(parameters).sort();
  if (!names.length) return path;
  return `${path}?${names.map((name) => `${name}=${encodeURIComponent(parameters[name])}`).join("&")}`;
}

/** A report has its data in an element of this page; in TensorBoard there is none. */
export function chooseSource() {
  const data = document.getElementById("convscope-data");
  return data ? embedded(JSON.parse(data.textContent)) : fetched(import.meta.url);
}
