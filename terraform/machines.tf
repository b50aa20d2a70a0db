# Launch templates and auto-scaling groups. A changed launch template changes no running machine: `platformctl replace` does,
# one at a time.

data "aws_ami" "this" {
  count = var.destroying ? 0 : 1

  # An id says which one it is, whoever owns it.
  owners             = startswith(var.coreos_image, "ami-") ? null : var.image_owners
  most_recent        = true
  include_deprecated = true
  filter {
    name   = startswith(var.coreos_image, "ami-") ? "image-id" : "name"
    values = [var.coreos_image]
  }
}

locals {
  image_id = var.destroying ? "ami-00000000000000000" : data.aws_ami.this[0].id
  # A volume of another name would be a second disk beside the image's own, small and unencrypted.
  root_device = var.destroying ? "/dev/xvda" : data.aws_ami.this[0].root_device_name
  subnets = {
    secure  = values(aws_subnet.secure)[*].id
    compute = values(aws_subnet.compute)[*].id
  }
}

resource "aws_key_pair" "operator" {
  key_name   = "${var.platform}-${var.environment}"
  public_key = var.ssh_public_key
  tags       = local.shared_tags
}

resource "aws_launch_template" "machine" {
  for_each = local.machines

  name                   = "${var.environment}-${each.key}"
  description            = "Machines of group ${each.key}"
  image_id               = local.image_id
  instance_type          = var.groups[each.key].flavor
  key_name               = aws_key_pair.operator.key_name
  user_data              = base64gzip(var.groups[each.key].user_data)
  vpc_security_group_ids = [each.value]
  update_default_version = true

  iam_instance_profile {
    arn = aws_iam_instance_profile.machine[each.key].arn
  }

  # Hop limit 1: a pod in a network of its own does not reach the role's credentials.
  metadata_options {
    http_endpoint               = "enabled"
    http_tokens                 = "required"
    http_put_response_hop_limit = 1
  }

  # ip-10-100-2-207.REGION.compute.internal (ec2.internal in us-east-1): certificates and Node objects bear these names.
  private_dns_name_options {
    hostname_type                        = "ip-name"
    enable_resource_name_dns_a_record    = false
    enable_resource_name_dns_aaaa_record = false
  }

  block_device_mappings {
    device_name = local.root_device
    ebs {
      volume_type           = "gp3"
      volume_size           = var.groups[each.key].volume_gb
      encrypted             = true
      delete_on_termination = true
    }
  }

  dynamic "tag_specifications" {
    for_each = ["instance", "volume", "network-interface"]
    content {
      resource_type = tag_specifications.value
      tags          = merge(local.role_tags[each.key], { Platform = var.platform, Env = var.environment, ManagedBy = "platformctl" })
    }
  }

  tags = local.role_tags[each.key]
}

resource "aws_autoscaling_group" "secure" {
  name                      = "${var.environment}-secure"
  min_size                  = var.groups.secure.min
  max_size                  = var.groups.secure.max
  vpc_zone_identifier       = local.subnets.secure
  target_group_arns         = [aws_lb_target_group.api_public.arn, aws_lb_target_group.api_internal.arn]
  health_check_grace_period = var.groups.secure.grace_period
  # EC2's alone: a control plane that answers badly is no reason to take etcd's disk away. For the same reason nothing
  # rebalances, refreshes or ages out a machine of this group.
  health_check_type     = "EC2"
  suspended_processes   = ["AZRebalance"]
  protect_from_scale_in = true
  # To be ended while it waits would mark the group as half made, and to be replaced with all its machines.
  wait_for_capacity_timeout = "0"

  launch_template {
    id      = aws_launch_template.machine["secure"].id
    version = aws_launch_template.machine["secure"].latest_version
  }

  dynamic "tag" {
    for_each = merge(local.role_tags.secure, { Platform = var.platform, Env = var.environment, ManagedBy = "platformctl" })
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # Its machines leave the load balancers first, and then shut down.
  timeouts {
    delete = "20m"
  }

  # `platformctl scale` and `replace` set how many machines are wanted, between min and max.
  lifecycle {
    ignore_changes = [desired_capacity]
  }

  # A machine that boots before its way out and its rights are there only loses time, but loses it.
  depends_on = [aws_iam_role_policy.machine, aws_route.internet, aws_route_table_association.secure]
}

resource "aws_autoscaling_group" "compute" {
  name                      = "${var.environment}-compute"
  min_size                  = var.groups.compute.min
  max_size                  = var.groups.compute.max
  vpc_zone_identifier       = local.subnets.compute
  health_check_grace_period = var.groups.compute.grace_period
  health_check_type         = "EC2"
  wait_for_capacity_timeout = "0"

  launch_template {
    id      = aws_launch_template.machine["compute"].id
    version = aws_launch_template.machine["compute"].latest_version
  }

  dynamic "tag" {
    for_each = merge(local.role_tags.compute, { Platform = var.platform, Env = var.environment, ManagedBy = "platformctl" })
    content {
      key                 = tag.key
      value               = tag.value
      propagate_at_launch = true
    }
  }

  # Its machines leave the load balancers first, and then shut down.
  timeouts {
    delete = "20m"
  }

  lifecycle {
    ignore_changes = [desired_capacity]
  }

  depends_on = [aws_iam_role_policy.machine, aws_route.internet, aws_route_table_association.compute]
}
