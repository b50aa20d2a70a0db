"""What there is in the account, as JSON: asked of the API with boto3, sorted, without what differs from run to run."""

import base64
import gzip
import json
import sys

import boto3
from botocore.exceptions import ClientError

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
        "user_data": gzip.decompress(base64.b64decode(data["UserData"])).decode(),
        "image": data["ImageId"],
        "type": data["InstanceType"],
        "metadata": data.get("MetadataOptions"),
        "disks": data.get("BlockDeviceMappings"),
        "names": data.get("PrivateDnsNameOptions"),
        "profile": data.get("IamInstanceProfile", {}).get("Arn"),
        "security_groups": sorted(names.get(g, g) for g in data.get("SecurityGroupIds", [])),
        "machine_tags": {s["ResourceType"]: tags(s) for s in data.get("TagSpecifications", [])},
        "version": t["LatestVersionNumber"],
        "key": data.get("KeyName"),
    }


def scaling(g):

    return {
        "name": g["AutoScalingGroupName"],
        "min": g["MinSize"],
        "max": g["MaxSize"],
        "machines": len(g["Instances"]),
        "desired": g["DesiredCapacity"],
        "template": g.get("LaunchTemplate", {}).get("LaunchTemplateName"),
        "zones": sorted(g["AvailabilityZones"]),
        "in_target_groups": sorted(target_names.get(t, t) for t in g.get("TargetGroupARNs", [])),
        "health": g["HealthCheckType"],
        "grace": g["HealthCheckGracePeriod"],
        "suspended": [p["ProcessName"] for p in g.get("SuspendedProcesses", [])],
        "protected": g.get("NewInstancesProtectedFromScaleIn"),
        "lifetime": g.get("MaxInstanceLifetime"),
        "tags": tags(g),
        "target_groups": len(g.get("TargetGroupARNs", [])),
        "subnets": len(g["VPCZoneIdentifier"].split(",")),
    }


def said(method, *path, **named):
    """What a bucket says of itself; none where it says nothing of the kind."""
    try:
        answer = method(**named)
    except ClientError:
        return None
    for key in path:
        answer = answer[key]
    return answer


def bucket(name):
    lifecycle = said(s3.get_bucket_lifecycle_configuration, "Rules", Bucket=name)
    return {
        "versioning": s3.get_bucket_versioning(Bucket=name).get("Status"),
        "encryption": said(s3.get_bucket_encryption, "ServerSideEncryptionConfiguration", "Rules", Bucket=name),
        "public": said(s3.get_public_access_block, "PublicAccessBlockConfiguration", Bucket=name),
        "policy": json.loads(said(s3.get_bucket_policy, "Policy", Bucket=name) or "null"),
        "lifecycle": ordered(lifecycle or []),
        "tags": {t["Key"]: t["Value"] for t in said(s3.get_bucket_tagging, "TagSet", Bucket=name) or []},
        "keys": sorted(o["Key"] for o in s3.list_objects_v2(Bucket=name).get("Contents", [])),
    }


def role(r):
    name = r["RoleName"]
    policies = iam.list_role_policies(RoleName=name)["PolicyNames"]
    return {
        "policies": [iam.get_role_policy(RoleName=name, PolicyName=p)["PolicyDocument"] for p in policies],
        "attached": iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"],
        "trust": r["AssumeRolePolicyDocument"],
        "tags": tags(iam.get_role(RoleName=name)["Role"]),
        "session": r.get("MaxSessionDuration"),
        "profiles": [p["InstanceProfileName"] for p in iam.list_instance_profiles_for_role(RoleName=name)["InstanceProfiles"]],
    }


def attributes(found):
    return {a["Key"]: a["Value"] for a in found["Attributes"]}


def elb_tags(arn):
    return tags(elb.describe_tags(ResourceArns=[arn])["TagDescriptions"][0])


def balancer(b):
    arn = b["LoadBalancerArn"]
    return {
        "name": b["LoadBalancerName"],
        "scheme": b.get("Scheme", "internet-facing"),
        "type": b["Type"],
        "zones": sorted(z["ZoneName"] for z in b["AvailabilityZones"]),
        "security_groups": sorted(names.get(g, g) for g in b.get("SecurityGroups", [])),
        "cross_zone": attributes(elb.describe_load_balancer_attributes(LoadBalancerArn=arn)).get("load_balancing.cross_zone.enabled"),
        "tags": elb_tags(arn),
        "listeners": ordered(
            {
                "port": l["Port"],
                "protocol": l["Protocol"],
                "to": [target_names.get(a["TargetGroupArn"]) for a in l["DefaultActions"]],
                "tags": elb_tags(l["ListenerArn"]),
            }
            for l in elb.describe_listeners(LoadBalancerArn=arn)["Listeners"]
        ),
    }


def target(t):
    found = attributes(elb.describe_target_group_attributes(TargetGroupArn=t["TargetGroupArn"]))
    return {
        "name": t["TargetGroupName"],
        "protocol": t["Protocol"],
        "port": t["Port"],
        "kind": t["TargetType"],
        "check": t["HealthCheckProtocol"] + " " + t["HealthCheckPath"],
        "check_port": t["HealthCheckPort"],
        "matcher": t["Matcher"],
        "thresholds": [t["HealthCheckIntervalSeconds"], t["HealthCheckTimeoutSeconds"], t["HealthyThresholdCount"], t["UnhealthyThresholdCount"]],
        "preserve_client_ip": found.get("preserve_client_ip.enabled"),
        "delay": found.get("deregistration_delay.timeout_seconds"),
        "tags": elb_tags(t["TargetGroupArn"]),
    }


target_groups = elb.describe_target_groups()["TargetGroups"]
target_names = {t["TargetGroupArn"]: t["TargetGroupName"] for t in target_groups}
load_balancers = elb.describe_load_balancers()["LoadBalancers"]
balancers_by_dns = {b["DNSName"]: b["LoadBalancerName"] for b in load_balancers}
tables = ec2.describe_route_tables(Filters=[*inside, ours])["RouteTables"]

records = []
for zone in r53.list_hosted_zones()["HostedZones"]:
    for r in r53.list_resource_record_sets(HostedZoneId=zone["Id"])["ResourceRecordSets"]:
        if r["Type"] == "A":
            records.append({"name": r["Name"], "to": balancers_by_dns.get(r["AliasTarget"]["DNSName"].rstrip("."), r["AliasTarget"]["DNSName"])})

print(json.dumps({
    "vpcs": ordered({"cidr": v["CidrBlock"], "tags": tags(v)} for v in vpcs),
    "subnets": ordered(
        {"cidr": s["CidrBlock"], "zone": s["AvailabilityZone"], "tags": tags(s), "public": s["MapPublicIpOnLaunch"]}
        for s in ec2.describe_subnets(Filters=inside)["Subnets"]
    ),
    "endpoints": ordered(
        {"service": e["ServiceName"], "routes": len(e["RouteTableIds"]), "tags": tags(e)} for e in ec2.describe_vpc_endpoints(Filters=inside)["VpcEndpoints"]
        if e["State"] != "deleted"
    ),
    "gateways": [tags(g) for g in ec2.describe_internet_gateways(Filters=[ours])["InternetGateways"]],
    "routes": ordered(
        {
            "tags": tags(t),
            "subnets": len([a for a in t["Associations"] if "SubnetId" in a]),
            "out": sorted(r["DestinationCidrBlock"] for r in t["Routes"] if r.get("GatewayId", "").startswith("igw-")),
        }
        for t in tables
    ),
    "rules": {g["GroupName"]: ordered(rules(g["IpPermissions"])) for g in groups},
    "egress": {g["GroupName"]: ordered(rules(g["IpPermissionsEgress"])) for g in groups},
    "security_tags": {g["GroupName"]: tags(g) for g in groups},
    "templates": ordered(template(t) for t in ec2.describe_launch_templates()["LaunchTemplates"]),
    "groups": ordered(scaling(g) for g in asg.describe_auto_scaling_groups()["AutoScalingGroups"]),
    "balancers": ordered(map(balancer, load_balancers)),
    "targets": ordered(map(target, target_groups)),
    "records": ordered(records),
    "roles": {r["RoleName"]: role(r) for r in iam.list_roles()["Roles"] if r["RoleName"].startswith("kube-dev-")},
    "profiles": {p["InstanceProfileName"]: tags(p) for p in iam.list_instance_profiles()["InstanceProfiles"]},
    "keys": ordered({"name": k["KeyName"], "tags": tags(k)} for k in ec2.describe_key_pairs()["KeyPairs"]),
    "buckets": {b["Name"]: bucket(b["Name"]) for b in s3.list_buckets()["Buckets"]},
}))
