// Sorts, filters and switches the summary table. Without it the table reads as it was written.
(() => {
  "use strict";
  const table = document.getElementById("summary");
  const form = document.getElementById("summary-controls");
  if (!table || !form) return;
  const views = JSON.parse(document.getElementById("summary-data").textContent);
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  const rows = [...body.rows].map((row, index) => ({
    row, index, name: row.cells[0].textContent.trim(), kind: row.className,
  }));
  const OWN = 2; // columns before the scores: the name, and where the own floor lies
  const field = (name) => form.elements.namedItem(name);
  let sorted = { column: -1, turned: false };

  const view = () => views[["split", "gap", "readout"].map((name) => field(name).value).join(".")];

  const valueOf = (found, entry, column) =>
    column === 0 ? entry.name.toLowerCase()
      : column === 1 ? found.random[entry.index]
        : found.rows[entry.index][column - OWN][0];

  const compare = (found, column, up) => (a, b) => {
    const [x, y] = [valueOf(found, a, column), valueOf(found, b, column)];
    const none = (value) => value === null || value === "";
    if (none(x) || none(y)) return none(x) - none(y) || a.index - b.index; // last either way
    const order = x < y ? -1 : x > y ? 1 : 0;
    return (up ? order : -order) || a.index - b.index;
  };

  // The first click puts the best on top: less is better in some columns.
  const upwards = (column) =>
    (column < OWN || heads[column].dataset.better === "lower") !== sorted.turned;

  function order(found) {
    const { column } = sorted;
    const apart = field("apart").checked;
    const by = column < 0 ? (a, b) => a.index - b.index : compare(found, column, upwards(column));
    const floor = (entry) => Number(entry.kind === "floor");
    [...rows]
      .sort((a, b) => (apart && floor(a) - floor(b)) || by(a, b))
      .forEach((entry) => body.append(entry.row));
    heads.forEach((head, index) => {
      if (index !== column) head.removeAttribute("aria-sort");
      else head.setAttribute("aria-sort", upwards(index) ? "ascending" : "descending");
    });
  }

  function hide() {
    const words = field("words").value.toLowerCase().split(/\s+/);
    const kind = field("kind").value;
    let shown = 0;
    for (const entry of rows) {
      const fits = words.every((word) => entry.name.toLowerCase().includes(word));
      entry.row.hidden = !(fits && (kind === "" || entry.kind === kind));
      shown += Number(!entry.row.hidden);
    }
    field("shown").value = `${shown} of ${rows.length} rows`;
  }

  function fill(found) {
    found.notes.forEach((note, index) => {
      heads[index + OWN].querySelector("small").textContent = note;
    });
    for (const { row, index } of rows) {
      const against = found.random[index];
      row.cells[1].textContent = against || (row.className === "method" ? "–" : "");
      row.cells[1].className = `mark ${against}`;
      found.rows[index].forEach(([, text, between, tone], column) => {
        const cell = row.cells[column + OWN];
        const small = document.createElement("small");
        small.textContent = between;
        cell.className = `num ${tone}`;
        cell.replaceChildren(`${text} `, small);
      });
    }
  }

  heads.forEach((head, index) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      sorted = { column: index, turned: sorted.column === index && !sorted.turned };
      order(view());
    });
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", (event) => {
    if (["split", "gap", "readout"].includes(event.target.name)) fill(view());
    order(view());
    hide();
  });
  form.addEventListener("reset", () => setTimeout(() => {
    sorted = { column: -1, turned: false };
    fill(view());
    order(view());
    hide();
  }));
  form.reset(); // browsers remember what was chosen before a reload
  form.hidden = false;
})();
