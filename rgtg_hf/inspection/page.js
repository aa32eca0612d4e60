// Arrow keys move between tokens, so that Tab passes a text in one step; Escape hides the candidates.
// Without this script each token is reached by Tab, and everything else is the same.
for (const text of document.querySelectorAll(".rgtg-text")) {
  const tokens = [...text.querySelectorAll(".rgtg-tok")];
  tokens.forEach((token, i) => { token.tabIndex = i ? -1 : 0; });
  const go = (from, to) => {
    from.tabIndex = -1;
    to.tabIndex = 0;
    to.focus();
  };
  text.addEventListener("focusin", (event) => {
    text.classList.remove("rgtg-quiet-pop");
    for (const token of tokens) token.tabIndex = token === event.target ? 0 : -1;
  });
  text.addEventListener("pointermove", () => text.classList.remove("rgtg-quiet-pop"));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Escape") text.classList.add("rgtg-quiet-pop");
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const i = tokens.indexOf(event.target);
    const to = { ArrowRight: i + 1, ArrowLeft: i - 1, Home: 0, End: tokens.length - 1 }[event.key];
    if (i < 0 || to === undefined) return;
    event.preventDefault();
    if (tokens[to]) go(tokens[i], tokens[to]);
  });
}
