# One network, a subnet a group and zone. A subnet's place follows from the zone's letter, so a zone more or fewer moves no
# other: in 10.100.0.0/16 the compute group has 10.100.0.0/24 in zone a and 10.100.2.0/24 in zone c; secure has 10.100.8.0/24 on.

data "aws_availability_zones" "all" {
  # No filter by state: a zone that AWS reports as impaired must not take its subnets away.
  filter {
    name   = "zone-type"
    values = ["availability-zone"]
  }
  filter {
    name   = "opt-in-status"
    values = ["opt-in-not-required"]
  }
}

data "aws_partition" "current" {}

locals {
  first_zones = slice(sort(data.aws_availability_zones.all.names), 0, min(3, length(data.aws_availability_zones.all.names)))
  zones       = toset(length(var.availability_zones) > 0 ? var.availability_zones : local.first_zones)

  # At least 16 subnets: two groups times the letters a to h.
  subnet_bits = min(8, 28 - tonumber(split("/", var.vpc_cidr)[1]))
  letters     = ["a", "b", "c", "d", "e", "f", "g", "h"]
  place       = { for zone in local.zones : zone => index(local.letters, substr(zone, -1, 1)) }

  role_tags = {
    for role in ["secure", "compute"] : role => { Name = "${var.environment}-${role}", Role = role }
  }
  shared_tags = { Name = var.environment, Role = "shared" }
}

resource "aws_vpc" "this" {
  cidr_block = var.vpc_cidr
  # etcd checks its peers' names by asking for the name of an address.
  enable_dns_support   = true
  enable_dns_hostnames = true

  tags = local.shared_tags
}

# What AWS gives to whoever names no group: nobody should, and then nothing is open.
resource "aws_default_security_group" "closed" {
  vpc_id = aws_vpc.this.id
  tags   = { Name = "${var.environment}-default-closed", Role = "shared" }
}

resource "aws_internet_gateway" "this" {
  vpc_id = aws_vpc.this.id
  tags   = local.shared_tags
}

resource "aws_route_table" "this" {
  vpc_id = aws_vpc.this.id
  tags   = local.shared_tags
}

resource "aws_route" "internet" {
  route_table_id         = aws_route_table.this.id
  destination_cidr_block = "0.0.0.0/0"
  gateway_id             = aws_internet_gateway.this.id
}

# Releases and artifacts, and most layers of images, come from S3: without a detour, and without a fee.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = aws_vpc.this.id
  service_name      = "com.amazonaws.${var.aws_region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = [aws_route_table.this.id]
  tags              = local.shared_tags
}

resource "aws_subnet" "secure" {
  for_each = local.place

  vpc_id            = aws_vpc.this.id
  availability_zone = each.key
  cidr_block        = cidrsubnet(var.vpc_cidr, local.subnet_bits, length(local.letters) + each.value)
  # The way out to images, KMS and EC2; who may come in, the security groups say.
  map_public_ip_on_launch             = true
  private_dns_hostname_type_on_launch = "ip-name"

  tags = local.role_tags.secure
}

resource "aws_subnet" "compute" {
  for_each = local.place

  vpc_id                              = aws_vpc.this.id
  availability_zone                   = each.key
  cidr_block                          = cidrsubnet(var.vpc_cidr, local.subnet_bits, each.value)
  map_public_ip_on_launch             = true
  private_dns_hostname_type_on_launch = "ip-name"

  tags = local.role_tags.compute
}

resource "aws_route_table_association" "secure" {
  for_each = aws_subnet.secure

  route_table_id = aws_route_table.this.id
  subnet_id      = each.value.id
}

resource "aws_route_table_association" "compute" {
  for_each = aws_subnet.compute

  route_table_id = aws_route_table.this.id
  subnet_id      = each.value.id
}
