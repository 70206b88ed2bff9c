"""Holdfast: show that a sandbox denies what it is said to deny, and that a proxy keeps its lanes clean.

The rooms, and what flows between them:

* `sandbox` compiles an isolation and a profile to a plan, carries it out, and probes it from inside;
* `harness` brings a service up inside, runs the battery, judges gates, writes the report;
* `systems` are the programs under test; `suites` tell the harness how to drive and judge each;
* `records` are bytes that must survive and be signed; `profiles` are the seccomp policies.
"""
