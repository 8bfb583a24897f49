"""The report of a comparison of many runs: what it shows, figure by figure, and the page that holds it."""
