// Sorts and filters the score tables, lets wide charts be pushed, and opens folded sections for printing. The page is complete without it.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "descending" ? "ascending" : "descending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const key = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const order = (a, b) => {
        const [x, y] = [key(a), key(b)];
        if (x === "–" || y === "–") return (x === "–") - (y === "–");
        return sign * (isNaN(x) || isNaN(y) ? x.localeCompare(y) : x - y);
      };
      body.append(...[...body.rows].sort(order));
    });
  });
}
for (const input of document.querySelectorAll("input.filter")) {
  input.hidden = false;
  input.addEventListener("input", () => {
    const wanted = input.value.trim().toLowerCase();
    for (const table of input.closest("section").querySelectorAll("table.sortable"))
      for (const row of table.tBodies[0].rows)
        row.hidden = !row.cells[0].textContent.toLowerCase().includes(wanted);
  });
}
// A chart that is wider than the screen can be pushed with the keyboard, too.
const reachable = () => {
  for (const figure of document.querySelectorAll("figure"))
    if (figure.scrollWidth > figure.clientWidth) figure.tabIndex = 0;
    else figure.removeAttribute("tabindex");
};
addEventListener("resize", reachable);
addEventListener("toggle", reachable, true);
reachable();
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => (each.open = true)));
