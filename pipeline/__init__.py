"""How work flows: one async function, pools, content keys, ledger, storage."""
