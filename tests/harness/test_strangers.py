"""Strangers' services and proxies, as they come: nginx, LiteLLM's proxy. Counted as skipped where they are not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from holdfast.harness.service import free_port

HOLDFAST = str(Path(sys.executable).with_name("holdfast"))
NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin:/usr/bin:/bin")
LITELLM = shutil.which("litellm")

CONFIGURATION = """
user root; daemon off; master_process off; pid FOLDER/nginx.pid; error_log stderr;
events {}
http {
  access_log off; client_body_temp_path FOLDER/body; proxy_temp_path FOLDER/proxy;
  fastcgi_temp_path FOLDER/f; uwsgi_temp_path FOLDER/u; scgi_temp_path FOLDER/s;
  server { listen 127.0.0.1:PORT; location /health { return 200 "ok"; }
    location / { proxy_pass UPSTREAM; proxy_http_version 1.1; proxy_buffering off; } }
}
"""
"""As root inside, where no other user is mapped."""


def judged(folder: Path, name: str) -> dict[str, str]:
    document = json.loads((folder / "results" / f"METRICS_{name}.json").read_text())
    return {gate: told["outcome"] for gate, told in document["gates"].items()}


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed; `make setup-peers` installs it")
def test_nginx_runs_inside_and_the_denials_are_its_own(tmp_path: Path) -> None:
    port = free_port()
    configuration = tmp_path / "nginx.conf"
    told = CONFIGURATION.replace("FOLDER", "/tmp").replace("PORT", str(port))
    configuration.write_text(told.replace("UPSTREAM", "http://127.0.0.1:1"))
    words = [HOLDFAST, "deny", "--isolation", "bwrap", "--ready", f"http://127.0.0.1:{port}/health", "--"]
    done = subprocess.run(
        [*words, str(NGINX), "-c", str(configuration)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert judged(tmp_path, "deny") == {
        "as_planned": "pass",
        "denials": "pass",
        "identity": "pass",
        "results": "pass",
    }


@pytest.mark.skipif(NGINX is None, reason="nginx is not installed; `make setup-peers` installs it")
def test_nginx_in_the_proxys_place_is_judged_by_the_same_gates_and_fails_those_of_routing(
    tmp_path: Path,
) -> None:
    """It knows nothing of models: one upstream gets all, with whatever credential the client sent."""
    template = tmp_path / "nginx.template"
    template.write_text(CONFIGURATION)
    script = tmp_path / "nginx.sh"
    script.write_text(
        f'sed "s#PORT#$1#; s#UPSTREAM#$2#; s#FOLDER#$3#g" {template} > "$3/nginx.conf"\n'
        f'exec {NGINX} -c "$3/nginx.conf"\n'
    )
    proxy = f"/bin/sh {script} {{port}} {{anthropic}} {{log_dir}}"
    words = [HOLDFAST, "gates", "--isolation", "none", "--name", "nginx", "--proxy-cmd", proxy]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    gates = judged(tmp_path, "nginx")
    assert gates["no_haiku_on_anthropic"] == "fail"
    assert gates["bodies_untouched"] == "pass"


@pytest.mark.skipif(
    LITELLM is None, reason="LiteLLM's proxy is not installed; `make setup-peers` installs it"
)
def test_litellm_in_the_proxys_place_is_judged(tmp_path: Path) -> None:
    """Whatever it comes to, it is a judgement of the gates and never a fault of the harness."""
    proxy = f"{LITELLM} --host 127.0.0.1 --port {{port}} --model claude-haiku-4-5-20251001 --api_base {{zai}}"
    words = [HOLDFAST, "gates", "--isolation", "none", "--name", "litellm", "--proxy-cmd", proxy]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode in {1, 2}, done.stdout + done.stderr
    assert judged(tmp_path, "litellm")
