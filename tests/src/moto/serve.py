"""moto's server, with what it answers otherwise than AWS put right: differences that Terraform's provider would report as
a change to make, again at every plan, or wait for without an end. Nothing is taken away from what moto checks."""

import sys

from moto.autoscaling.models import AutoScalingBackend
from moto.ec2.models.launch_templates import LaunchTemplate
from moto.ec2.models.security_groups import SecurityGroupRule
from moto.iam.access_control import IAMPolicyStatement, PermissionResult
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

if __name__ == "__main__":
    sys.exit(main())
