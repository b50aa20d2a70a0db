# The API server's two addresses: one for the operators' networks, one for the VPC. Both pass TLS through.
#
# The kind comes first in the names of load balancers and target groups, which all environments of an account share: were it at the
# end of one of them, or missing, the names of an environment whose own name looks like it would be the same.

data "aws_route53_zone" "this" {
  count = var.destroying ? 0 : 1

  name         = var.dns_zone_name
  private_zone = false
}

locals {
  # A record that is destroyed has its zone's id in the state.
  zone_id = var.destroying ? "none" : data.aws_route53_zone.this[0].zone_id
}

resource "aws_lb" "api_public" {
  # A load balancer's name has at most 32 characters and must not begin with internal-.
  name                             = "api-${var.environment}"
  load_balancer_type               = "network"
  internal                         = false
  subnets                          = local.subnets.secure
  security_groups                  = [aws_security_group.api_public.id]
  enable_cross_zone_load_balancing = true
  tags                             = { Name = "${var.environment}-api-public", Role = "secure" }

  # A public one is refused while its network has no way out; and the way out stays while it has addresses.
  depends_on = [aws_route.internet]
}

resource "aws_lb" "api_internal" {
  name                             = "int-${var.environment}"
  load_balancer_type               = "network"
  internal                         = true
  subnets                          = local.subnets.secure
  security_groups                  = [aws_security_group.api_internal.id]
  enable_cross_zone_load_balancing = true
  tags                             = { Name = "${var.environment}-api-internal", Role = "secure" }
}

resource "aws_lb_target_group" "api_public" {
  name        = "api-${var.environment}"
  vpc_id      = aws_vpc.this.id
  protocol    = "TCP"
  port        = local.api_port
  target_type = "instance"
  # A connection that outlives its machine's place is begun anew by every client.
  deregistration_delay = 30

  # /readyz without credentials is what the API server's configuration allows to anybody.
  health_check {
    protocol            = "HTTPS"
    port                = "traffic-port"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 6
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  tags = { Name = "${var.environment}-api-public", Role = "secure" }
}

resource "aws_lb_target_group" "api_internal" {
  name        = "int-${var.environment}"
  vpc_id      = aws_vpc.this.id
  protocol    = "TCP"
  port        = local.api_port
  target_type = "instance"
  # A connection that outlives its machine's place is begun anew by every client.
  deregistration_delay = 30
  # With it, a machine that is led to itself by its own load balancer never gets an answer.
  preserve_client_ip = false

  health_check {
    protocol            = "HTTPS"
    port                = "traffic-port"
    path                = "/readyz"
    matcher             = "200"
    interval            = 10
    timeout             = 6
    healthy_threshold   = 2
    unhealthy_threshold = 2
  }

  tags = { Name = "${var.environment}-api-internal", Role = "secure" }
}

resource "aws_lb_listener" "api_public" {
  load_balancer_arn = aws_lb.api_public.arn
  protocol          = "TCP"
  port              = local.api_port

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.api_public.arn
  }

  tags = { Name = "${var.environment}-api-public", Role = "secure" }
}

resource "aws_lb_listener" "api_internal" {
  load_balancer_arn = aws_lb.api_internal.arn
  protocol          = "TCP"
  port              = local.api_port

  default_action {
    type             = "forward"
    target_group_arn = aws_lb_target_group.api_internal.arn
  }

  tags = { Name = "${var.environment}-api-internal", Role = "secure" }
}

# These two names are in the API server's certificate.
resource "aws_route53_record" "api_public" {
  zone_id = local.zone_id
  name    = "kube.${var.dns_zone_name}"
  type    = "A"

  alias {
    name                   = aws_lb.api_public.dns_name
    zone_id                = aws_lb.api_public.zone_id
    evaluate_target_health = false
  }
}

resource "aws_route53_record" "api_internal" {
  zone_id = local.zone_id
  name    = "kube-internal.${var.dns_zone_name}"
  type    = "A"

  alias {
    name                   = aws_lb.api_internal.dns_name
    zone_id                = aws_lb.api_internal.zone_id
    evaluate_target_health = false
  }
}
