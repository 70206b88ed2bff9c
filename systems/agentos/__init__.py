"""The CCC adapter: telemetry that obeys its privacy tier.

    events ── schemas ──> Recorder ──> windows.jsonl            every tier; the log is the truth
                                          │
              metrics.rollup  <───────────┤   folds it: metrics_summary.json, glm_counts.jsonl
              upload.Outbox   <───────────┘   folds it: what a tier lets out, durable, in order
                    │
    licensing ── Grant ──> privacy.Minimized | privacy.Full ──> upload.Channel ──> server

* an **event** is one JSON object, valid under `schemas/v1`, in one line of the log;
* a **tier** is a type: `LocalOnly` has no field at all, `Minimized` and `Full` cannot be made without a Grant;
* a **grant** is what a verified licence pack turns into, and nothing else makes one;
* the **outbox** is a fold over the log with its place in it, so a kill at any point loses and doubles nothing;
* a **channel** is made from `Minimized` or `Full` only: from `LocalOnly` there is no path to a transport.
"""
