# What a machine may do, by its group. The bucket's prefixes are the boundary: a group reads its own, a machine writes its
# own status and its group's rollout. No machine may list more than its group's reports and, on secure, etcd/; delete anything but
# old backups; reach operator/; or encrypt.

data "aws_kms_key" "master" {
  count = var.destroying ? 0 : 1

  key_id = var.kms_master_id
}

locals {
  key_arn    = var.destroying ? "none" : data.aws_kms_key.master[0].arn
  bucket_arn = "arn:${data.aws_partition.current.partition}:s3:::${var.secrets_bucket_name}"

  # What only the secure group has: etcd's fence and backups.
  own_prefixes = {
    secure  = ["etcd/"]
    compute = []
  }
}

data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

data "aws_iam_policy_document" "machine" {
  for_each = local.machines

  statement {
    sid     = "ReadGroup"
    actions = ["s3:GetObject"]
    resources = concat(
      [
        "${local.bucket_arn}/bootstrap/*",
        "${local.bucket_arn}/groups/${each.key}/*",
        "${local.bucket_arn}/rollouts/${each.key}.json",
        "${local.bucket_arn}/nodes/${each.key}/*",
      ],
      [for prefix in local.own_prefixes[each.key] : "${local.bucket_arn}/${prefix}*"],
    )
  }

  # aws:userid of a machine is ROLE-ID:INSTANCE-ID, which is its node id.
  statement {
    sid     = "WriteOwn"
    actions = ["s3:PutObject"]
    resources = concat(
      [
        "${local.bucket_arn}/nodes/${each.key}/$${aws:userid}.json",
        "${local.bucket_arn}/rollouts/${each.key}.json",
      ],
      [for prefix in local.own_prefixes[each.key] : "${local.bucket_arn}/${prefix}*"],
    )
  }

  statement {
    sid       = "ListReports"
    actions   = ["s3:ListBucket"]
    resources = [local.bucket_arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = concat(["nodes/${each.key}/*"], [for prefix in local.own_prefixes[each.key] : "${prefix}*"])
    }
  }

  # A backup goes when newer ones stand for it. The bucket keeps versions: what a machine deletes is there for 30 days more, and
  # no machine may delete a version.
  dynamic "statement" {
    for_each = each.key == "secure" ? ["retire"] : []
    content {
      sid     = "RetireBackups"
      actions = ["s3:DeleteObject"]
      resources = [
        "${local.bucket_arn}/etcd/*/backups/*",
        "${local.bucket_arn}/etcd/*/snapshots/*",
      ]
    }
  }

  # Exactly the context of a release of this group: the keyring's has another group in it, and no context at all is none.
  statement {
    sid       = "UnwrapReleases"
    actions   = ["kms:Decrypt"]
    resources = [local.key_arn]
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:environment"
      values   = [var.environment]
    }
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:group"
      values   = [each.key]
    }
  }

  # The cloud controller manager's two node controllers run on secure machines. EC2 knows no narrower right for these.
  dynamic "statement" {
    for_each = each.key == "secure" ? ["describe"] : []
    content {
      sid = "KnowMachines"
      actions = [
        "ec2:DescribeAvailabilityZones",
        "ec2:DescribeInstances",
        "ec2:DescribeInstanceTopology",
        "ec2:DescribeRegions",
      ]
      resources = ["*"]
    }
  }
}

resource "aws_iam_role" "machine" {
  for_each = local.machines

  name                 = "${var.platform}-${var.environment}-${each.key}"
  description          = "Machines of group ${each.key} of environment ${var.environment}"
  assume_role_policy   = data.aws_iam_policy_document.assume.json
  max_session_duration = 3600

  tags = local.role_tags[each.key]
}

resource "aws_iam_role_policy" "machine" {
  for_each = local.machines

  name   = "machine"
  role   = aws_iam_role.machine[each.key].id
  policy = data.aws_iam_policy_document.machine[each.key].json
}

resource "aws_iam_instance_profile" "machine" {
  for_each = local.machines

  name = aws_iam_role.machine[each.key].name
  role = aws_iam_role.machine[each.key].name

  tags = local.role_tags[each.key]
}
