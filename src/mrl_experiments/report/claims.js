// The paper's claims: what our rows say of each.
function showClaims(claims) {
  const links = ["md", "csv", "tex"].map((suffix) => make("a", { href: `tables/claims.${suffix}` }, suffix));
  const row = (claim) => make("tr", { "data-dataset": claim.dataset, "data-model": claim.model, class: claim.verdict.replace(/ /g, "-") },
    ...claim.cells.map((text, i) => make(i ? "td" : "th", { scope: i ? null : "row", "data-name": claims.headings[i] }, text)));
  find("#claims .hint").textContent = claims.note;
  find("#claims").append(make("article", { class: "card" }, make("div", { class: "head" }, make("b", {}, claims.counted), make("span", { class: "files" }, ...links)),
    make("div", { class: "scroll", tabindex: 0, role: "region", "aria-label": "The paper’s claims" },
      make("table", {}, make("thead", {}, make("tr", {}, ...claims.headings.map((name) => make("th", { scope: "col" }, name)))), make("tbody", {}, ...claims.rows.map(row))))));
}
