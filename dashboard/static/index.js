// The list of the runs that have a record.
export async function render() {
  document.title = "convscope";
  const list = document.body.appendChild(document.createElement("ul"));
  const answer = await fetch(new URL("runs", import.meta.url));
  const { runs, error } = await answer.json();
  for (const run of runs ?? []) {
    list.appendChild(document.createElement("li")).textContent = run.problem ?? `${run.name}: ${run.checks} checks`;
  }
  if (!runs?.length) list.textContent = error ?? "No run here has data of convscope.";
}
