"""What there is in the account, as JSON: asked of the API with boto3, sorted, without what differs from run to run."""

import base64
import json
import sys

import boto3

endpoint, region = sys.argv[1:3]


def client(service):
    return boto3.client(service, endpoint_url=endpoint, region_name=region)


def tags(resource):
    return {t["Key"]: t["Value"] for t in resource.get("Tags", [])}


def ordered(items):
    return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))


ec2, asg, iam, elb, r53, s3 = map(client, ("ec2", "autoscaling", "iam", "elbv2", "route53", "s3"))
ours = {"Name": "tag-key", "Values": ["Platform"]}

vpcs = ec2.describe_vpcs(Filters=[ours])["Vpcs"]
ids = [v["VpcId"] for v in vpcs]
inside = [{"Name": "vpc-id", "Values": ids or ["none"]}]
groups = ec2.describe_security_groups(Filters=inside)["SecurityGroups"]
names = {g["GroupId"]: g["GroupName"] for g in groups}


def rules(permissions):
    for p in permissions:
        base = {"protocol": p["IpProtocol"], "from": p.get("FromPort"), "to": p.get("ToPort")}
        for r in p.get("IpRanges", []):
            yield {**base, "source": r["CidrIp"]}
        for r in p.get("UserIdGroupPairs", []):
            yield {**base, "source": names.get(r["GroupId"], r["GroupId"])}


def template(t):
    version = ec2.describe_launch_template_versions(LaunchTemplateId=t["LaunchTemplateId"], Versions=["$Latest"])
    version = version["LaunchTemplateVersions"][0]
    data = version["LaunchTemplateData"]
    return {
        "name": t["LaunchTemplateName"],
        "tags": tags(t),
        "user_data": base64.b64decode(data["UserData"]).decode(),
        "image": data["ImageId"],
        "type": data["InstanceType"],
        "metadata": data.get("MetadataOptions"),
        "disks": data.get("BlockDeviceMappings"),
        "names": data.get("PrivateDnsNameOptions"),
        "key": data.get("KeyName"),
    }


def scaling(g):
    return {
        "name": g["AutoScalingGroupName"],
        "min": g["MinSize"],
        "max": g["MaxSize"],
        "machines": len(g["Instances"]),
        "health": g["HealthCheckType"],
        "grace": g["HealthCheckGracePeriod"],
        "suspended": [p["ProcessName"] for p in g.get("SuspendedProcesses", [])],
        "protected": g.get("NewInstancesProtectedFromScaleIn"),
        "lifetime": g.get("MaxInstanceLifetime"),
        "tags": tags(g),
        "target_groups": len(g.get("TargetGroupARNs", [])),
        "subnets": len(g["VPCZoneIdentifier"].split(",")),
    }


def bucket(name):
    return {
        "versioning": s3.get_bucket_versioning(Bucket=name).get("Status"),
        "encryption": s3.get_bucket_encryption(Bucket=name)["ServerSideEncryptionConfiguration"]["Rules"],
        "public": s3.get_public_access_block(Bucket=name)["PublicAccessBlockConfiguration"],
        "policy": json.loads(s3.get_bucket_policy(Bucket=name)["Policy"]),
        "lifecycle": sorted(r["ID"] for r in s3.get_bucket_lifecycle_configuration(Bucket=name)["Rules"]),
        "tags": {t["Key"]: t["Value"] for t in s3.get_bucket_tagging(Bucket=name)["TagSet"]},
        "keys": sorted(o["Key"] for o in s3.list_objects_v2(Bucket=name).get("Contents", [])),
    }


def role(r):
    name = r["RoleName"]
    policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
    return {
        "policies": [iam.get_role_policy(RoleName=name, PolicyName=p)["PolicyDocument"] for p in policies],
        "attached": iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"],
        "trust": r["AssumeRolePolicyDocument"],
        "profiles": [p["InstanceProfileName"] for p in iam.list_instance_profiles_for_role(RoleName=name)["InstanceProfiles"]],
    }


records = []
for zone in r53.list_hosted_zones()["HostedZones"]:
    for r in r53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]:
        if r["Type"] == "A":
            records.append({"name": r["Name"], "to": r["AliasTarget"]["DNSName"]})

print(json.dumps({
    "vpcs": ordered({"cidr": v["CidrBlock"], "tags": tags(v)} for v in vpcs),
    "subnets": ordered(
        {"cidr": s["CidrBlock"], "zone": s["AvailabilityZone"], "name": tags(s).get("Name"), "public": s["MapPublicIpOnLaunch"]}
        for s in ec2.describe_subnets(Filters=inside)["Subnets"]
    ),
    "endpoints": ordered(
        {"service": e["ServiceName"], "routes": len(e["RouteTableIds"])} for e in ec2.describe_vpc_endpoints(Filters=inside)["VpcEndpoints"]
        if e["State"] != "deleted"
    ),
    "rules": {g["GroupName"]: ordered(rules(g["IpPermissions"])) for g in groups},
    "templates": ordered(template(t) for t in ec2.describe_launch_templates()["LaunchTemplates"]),
    "groups": ordered(scaling(g) for g in asg.describe_auto_scaling_groups()["AutoScalingGroups"]),
    "balancers": ordered({"name": b["LoadBalancerName"], "scheme": b.get("Scheme", "internet-facing"), "type": b["Type"]} for b in elb.describe_load_balancers()["LoadBalancers"]),
    "targets": ordered(
        {"name": t["TargetGroupName"], "protocol": t["Protocol"], "port": t["Port"], "check": t["HealthCheckProtocol"] + " " + t["HealthCheckPath"]}
        for t in elb.describe_target_groups()["TargetGroups"]
    ),
    "records": ordered(records),
    "roles": {r["RoleName"]: role(r) for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("kube-dev-")},
    "keys": sorted(k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]),
    "buckets": {b["Name"]: bucket(b["Name"]) for b in s3.list_buckets()["Buckets"]},
}))
