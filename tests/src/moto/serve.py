"""moto's server, with what it answers otherwise than AWS put right: differences that Terraform's provider would report as
a change to make, again at every plan, or wait for without an end. Nothing is taken away from what moto checks."""

import io
import json
import os
import pathlib
import sys
import threading
import time

from moto.autoscaling.models import AutoScalingBackend
from moto.ec2.models.launch_templates import LaunchTemplate
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
from moto.moto_server.werkzeug_app import DomainDispatcherApplication
from moto.s3.models import s3_backends
from moto.s3.responses import S3Response
from moto.server import main

# EC2 keeps the tags of the template itself apart from what the template says of the machines; moto merges them into both.
_create_version = LaunchTemplate.create_version


def create_version(self, data, description):
    if "TagSpecifications" in data:
        of_machines = [s for s in data["TagSpecifications"] if s.get("ResourceType") != "launch-template"]
        data = {**data, "TagSpecifications": of_machines}
    return _create_version(self, data, description)


LaunchTemplate.create_version = create_version

# EC2 gives a rule its description back whatever its source is; moto only where that is a network.
SecurityGroupRule.description = property(
    lambda self: self.ip_range.get("Description") or (self.source_group or {}).get("Description")
)

# Auto-scaling goes on removing machines once they are not protected any more; moto only looks when the size is set.
_set_instance_protection = AutoScalingBackend.set_instance_protection


def set_instance_protection(self, group_name, instance_ids, protected_from_scale_in):
    _set_instance_protection(self, group_name, instance_ids, protected_from_scale_in)
    if not protected_from_scale_in:
        self.set_desired_capacity(group_name, self.autoscaling_groups[group_name].desired_capacity)


AutoScalingBackend.set_instance_protection = set_instance_protection

# S3 refuses whoever expects another owner of a bucket; moto does not look.
_head_bucket = S3Response.head_bucket


def head_bucket(self):
    expected = self.headers.get("x-amz-expected-bucket-owner")
    _, owner = s3_backends.bucket_accounts.get(self.bucket_name, (None, expected))
    if expected and owner != expected:
        return 403, {}, ""
    return _head_bucket(self)


S3Response.head_bucket = head_bucket

# S3's answer is called VersioningConfiguration; boto3 does not mind another name, the SDK for Rust does.
def get_bucket_versioning(self):
    status = self.backend.get_bucket_versioning(self.bucket_name)
    status = f"<Status>{status}</Status>" if status else ""
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return 200, {"content-type": "application/xml"}, f'<VersioningConfiguration xmlns="{namespace}">{status}</VersioningConfiguration>'


S3Response.get_bucket_versioning = get_bucket_versioning

# A statement whose conditions do not hold says nothing; moto lets it deny, and knows few conditions. What ours mean is judged
# by src/iam.rs.
_is_action_permitted = IAMPolicyStatement.is_action_permitted


def is_action_permitted(self, *arguments, **named):
    if "Condition" in self._statement:
        return PermissionResult.NEUTRAL
    return _is_action_permitted(self, *arguments, **named)


IAMPolicyStatement.is_action_permitted = is_action_permitted

# For tests, in the directory PLATFORM_MOTO_DESK: `want.json` says of which request the moment is wanted ({"match": TEXT, "skip": N,
# "answer": [STATUS, CODE] or none). It is held, `held` says so, and it goes on once `want.json` is gone; with an answer, every such
# request is refused instead. `requests.jsonl` has a line for each request of an access key that begins with AGENT.
_desk = os.environ.get("PLATFORM_MOTO_DESK")
_lock = threading.Lock()
_seen = {}


def _refusal(code, environ, body):
    if "HTTP_X_AMZ_TARGET" in environ:
        return json.dumps({"__type": code, "Message": "made up"})
    error = f"<Error><Code>{code}</Code><Message>made up</Message></Error>"
    if b"Version=2016-11-15" in body:
        return f"<Response><Errors>{error}</Errors></Response>"
    return f"<ErrorResponse>{error}</ErrorResponse>" if body else error


def _stand_before(application):
    def called(self, environ, start_response):
        desk = pathlib.Path(_desk)
        body = b""
        kind = environ.get("CONTENT_TYPE", "")
        if "urlencoded" in kind or "amz-json" in kind:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            environ["wsgi.input"] = io.BytesIO(body)
        query = environ.get("QUERY_STRING", "")
        target = environ.get("HTTP_X_AMZ_TARGET", "")
        text = f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}?{query} {target} {body.decode(errors='replace')}"
        by = environ.get("HTTP_AUTHORIZATION", "").partition("Credential=")[2].partition("/")[0]
        if by.startswith("AGENT"):
            line = {
                "by": by,
                "method": environ["REQUEST_METHOD"],
                "path": environ["PATH_INFO"],
                "query": query,
                "target": target,
                "body": json.loads(body) if "amz-json" in kind else None,
                "if_none_match": environ.get("HTTP_IF_NONE_MATCH"),
            }
            with _lock, open(desk / "requests.jsonl", "a") as log:
                log.write(json.dumps(line) + "\n")
        want = desk / "want.json"
        try:
            wanted = json.loads(want.read_text())
        except FileNotFoundError:
            wanted = None
        if wanted and wanted["match"] in text:
            with _lock:
                number = _seen[wanted["id"]] = _seen.get(wanted["id"], -1) + 1
            if wanted["answer"]:
                status, code = wanted["answer"]
                said = b"" if environ["REQUEST_METHOD"] == "HEAD" else _refusal(code, environ, body).encode()
                start_response(f"{status} Refused", [("Content-Length", str(len(said)))])
                return [said]
            if number == wanted["skip"]:
                (desk / "held").write_text(text)
                while want.exists():
                    time.sleep(0.02)
        return application(self, environ, start_response)

    return called


if _desk:
    DomainDispatcherApplication.__call__ = _stand_before(DomainDispatcherApplication.__call__)

if __name__ == "__main__":
    sys.exit(main())
