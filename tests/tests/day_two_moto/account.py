"""An account with what doctor asks for, and on request the machines of two groups. Prints what it made as JSON."""

import json
import sys

import boto3

endpoint, what = sys.argv[1:3]
client = lambda service: boto3.client(service, endpoint_url=endpoint, region_name="us-east-1")
ec2, scaling, route53, kms, s3 = map(client, ["ec2", "autoscaling", "route53", "kms", "s3"])
made = {}

if what == "prerequisites":
    made["key"] = kms.create_key(KeySpec="SYMMETRIC_DEFAULT", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
    kms.create_alias(AliasName="alias/platform-dev", TargetKeyId=made["key"])
    route53.create_hosted_zone(Name="example.com", CallerReference="1")
    s3.create_bucket(Bucket="example-dev-secrets")
    images = ec2.describe_images(Filters=[{"Name": "architecture", "Values": ["x86_64"]}])["Images"]
    made["image"] = min(image["ImageId"] for image in images)
elif what == "machines":
    image = ec2.describe_images()["Images"][0]["ImageId"]
    subnets = ",".join(s["SubnetId"] for s in ec2.describe_subnets()["Subnets"][:3])
    for group, count in [("compute", 2), ("secure", 3)]:
        name = f"dev-{group}"
        template = ec2.create_launch_template(
            LaunchTemplateName=name, LaunchTemplateData={"ImageId": image, "InstanceType": "t3.medium"}
        )["LaunchTemplate"]["LaunchTemplateId"]
        scaling.create_auto_scaling_group(
            AutoScalingGroupName=name,
            LaunchTemplate={"LaunchTemplateId": template, "Version": "$Latest"},
            MinSize=1,
            MaxSize=4,
            DesiredCapacity=count,
            VPCZoneIdentifier=subnets,
            Tags=[
                {"Key": key, "Value": value, "PropagateAtLaunch": True}
                for key, value in [("Name", name), ("Platform", "kube"), ("Env", "dev"), ("Role", group)]
            ],
        )
        if group == "compute":
            # moto says of each machine that it was launched from the default version.
            ec2.create_launch_template_version(
                LaunchTemplateId=template, SourceVersion="1", LaunchTemplateData={"InstanceType": "t3.large"}
            )
    # Somebody else's.
    for tags in (
        {"Name": "dev-compute", "Env": "prod", "Role": "compute", "Platform": "kube"},
        {"Name": "dev-compute", "Env": "dev", "Role": "compute", "Platform": "another"},
    ):
        ec2.run_instances(
            ImageId=image,
            MinCount=1,
            MaxCount=1,
            TagSpecifications=[
                {"ResourceType": "instance", "Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}
            ],
        )
elif what == "disable-key":
    kms.disable_key(KeyId=sys.argv[3])
elif what == "enable-key":
    kms.enable_key(KeyId=sys.argv[3])
elif what == "policy":
    kms.put_key_policy(KeyId=sys.argv[3], PolicyName="default", Policy=sys.argv[4])
elif what == "mark":
    # As `platformctl run` marks the bucket as its own.
    tags = {"Env": "dev", "Platform": "kube", "ManagedBy": "platformctl"}
    s3.put_bucket_tagging(
        Bucket="example-dev-secrets",
        Tagging={"TagSet": [{"Key": key, "Value": value} for key, value in tags.items()]},
    )
elif what == "take":
    with open(sys.argv[4], "wb") as file:
        file.write(s3.get_object(Bucket="example-dev-secrets", Key=sys.argv[3])["Body"].read())
elif what == "put":
    with open(sys.argv[4], "rb") as file:
        s3.put_object(Bucket="example-dev-secrets", Key=sys.argv[3], Body=file.read())
elif what == "stop":
    ec2.stop_instances(InstanceIds=[sys.argv[3]])

made["groups"] = {
    g["AutoScalingGroupName"]: {"desired": g["DesiredCapacity"], "members": sorted(i["InstanceId"] for i in g["Instances"])}
    for g in scaling.describe_auto_scaling_groups()["AutoScalingGroups"]
}
made["states"] = {
    i["InstanceId"]: i["State"]["Name"] for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]
}
print(json.dumps(made))
