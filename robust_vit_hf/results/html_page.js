// Sort a table by the column whose head is pressed: ascending first, then in turn. Cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const ascending = head.ariaSort !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.ariaSort = ascending ? "ascending" : "descending";
      const rows = [...table.tBodies[0].rows];
      const value = (row) => row.cells[column].dataset.value;
      rows.sort((first, second) => {
        const [a, b] = [value(first), value(second)];
        if (a === "" || b === "") return (a === "") - (b === "");
        const order = column === 0 ? a.localeCompare(b) : a - b;
        return ascending ? order : -order;
      });
      table.tBodies[0].append(...rows);
    });
  });
}
