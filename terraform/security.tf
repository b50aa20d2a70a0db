# Who may reach whom. Groups first, then one rule a permission: a rule that changes touches no other.

locals {
  api_port = 6443
}

resource "aws_security_group" "secure" {
  name        = "${var.environment}-secure"
  description = "Machines of the secure group"
  vpc_id      = aws_vpc.this.id
  tags        = local.role_tags.secure
}

resource "aws_security_group" "compute" {
  name        = "${var.environment}-compute"
  description = "Machines of the compute group"
  vpc_id      = aws_vpc.this.id
  tags        = local.role_tags.compute
}

# A load balancer takes security groups only when it is made, so each has one of its own from the beginning.
resource "aws_security_group" "api_public" {
  name        = "${var.environment}-api-public"
  description = "The public load balancer of the API server"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.environment}-api-public", Role = "secure" }
}

resource "aws_security_group" "api_internal" {
  name        = "${var.environment}-api-internal"
  description = "The internal load balancer of the API server"
  vpc_id      = aws_vpc.this.id
  tags        = { Name = "${var.environment}-api-internal", Role = "secure" }
}

locals {
  machines = {
    secure  = aws_security_group.secure.id
    compute = aws_security_group.compute.id
  }
  everybody = merge(local.machines, {
    api-public   = aws_security_group.api_public.id
    api-internal = aws_security_group.api_internal.id
  })

  # From networks outside.
  from_networks = merge(
    {
      for pair in setproduct(keys(local.machines), var.ssh_access_list) :
      "${pair[0]} ssh from ${pair[1]}" => { to = local.machines[pair[0]], port = 22, cidr = pair[1] }
    },
    {
      for cidr in var.kubeapi_access_list :
      "api-public from ${cidr}" => { to = aws_security_group.api_public.id, port = local.api_port, cidr = cidr }
    },
  )

  # From one group to another.
  from_groups = merge(
    {
      "secure etcd peers" = { to = "secure", from = "secure", port = 2380, protocol = "tcp" }
      # Machines that are no member ask the members; each comes with a client certificate. The API server stays on loopback.
      "secure etcd clients"          = { to = "secure", from = "secure", port = 2379, protocol = "tcp" }
      "secure api from api-public"   = { to = "secure", from = "api-public", port = local.api_port, protocol = "tcp" }
      "secure api from api-internal" = { to = "secure", from = "api-internal", port = local.api_port, protocol = "tcp" }
      # The service `kubernetes` leads pods straight to the machines, past the load balancers.
      "secure api from secure"     = { to = "secure", from = "secure", port = local.api_port, protocol = "tcp" }
      "secure api from compute"    = { to = "secure", from = "compute", port = local.api_port, protocol = "tcp" }
      "api-internal from compute"  = { to = "api-internal", from = "compute", port = local.api_port, protocol = "tcp" }
      "secure kubelet from secure" = { to = "secure", from = "secure", port = 10250, protocol = "tcp" }
      "compute kubelet"            = { to = "compute", from = "secure", port = 10250, protocol = "tcp" }
    },
    # VXLAN of the pod network.
    {
      for pair in setproduct(keys(local.machines), keys(local.machines)) :
      "${pair[0]} overlay from ${pair[1]}" => { to = pair[0], from = pair[1], port = 8472, protocol = "udp" }
    },
  )
}

resource "aws_vpc_security_group_ingress_rule" "network" {
  for_each = local.from_networks

  security_group_id = each.value.to
  description       = each.key
  ip_protocol       = "tcp"
  from_port         = each.value.port
  to_port           = each.value.port
  cidr_ipv4         = each.value.cidr

  tags = { Name = each.key, Role = "shared" }
}

resource "aws_vpc_security_group_ingress_rule" "group" {
  for_each = local.from_groups

  security_group_id            = local.everybody[each.value.to]
  description                  = each.key
  ip_protocol                  = each.value.protocol
  from_port                    = each.value.port
  to_port                      = each.value.port
  referenced_security_group_id = local.everybody[each.value.from]

  tags = { Name = each.key, Role = "shared" }
}

resource "aws_vpc_security_group_egress_rule" "machines" {
  for_each = local.machines

  security_group_id = each.value
  description       = "${each.key} to anywhere: images, S3, KMS, EC2"
  ip_protocol       = "-1"
  cidr_ipv4         = "0.0.0.0/0"

  tags = { Name = "${each.key} to anywhere", Role = each.key }
}

# Health checks obey these.
resource "aws_vpc_security_group_egress_rule" "api" {
  for_each = {
    api-public   = aws_security_group.api_public.id
    api-internal = aws_security_group.api_internal.id
  }

  security_group_id            = each.value
  description                  = "${each.key} to the API servers"
  ip_protocol                  = "tcp"
  from_port                    = local.api_port
  to_port                      = local.api_port
  referenced_security_group_id = aws_security_group.secure.id

  tags = { Name = "${each.key} to the API servers", Role = "secure" }
}
