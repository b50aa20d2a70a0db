provider "aws" {
  region = var.aws_region

  # Credentials and profile come from the environment, so that two operators may have different ones.
  # An account that is given as digits is enforced here too; an alias is platformctl's to look up.
  allowed_account_ids = can(regex("^[0-9]{12}$", var.aws_account)) ? [var.aws_account] : null

  # Somewhere else than AWS: every service that is used here.
  s3_use_path_style = var.aws_endpoint_url != null
  endpoints {
    autoscaling = var.aws_endpoint_url
    ec2         = var.aws_endpoint_url
    elbv2       = var.aws_endpoint_url
    iam         = var.aws_endpoint_url
    kms         = var.aws_endpoint_url
    route53     = var.aws_endpoint_url
    s3          = var.aws_endpoint_url
    sts         = var.aws_endpoint_url
  }

  default_tags {
    tags = {
      Platform  = var.platform
      Env       = var.environment
      ManagedBy = "platformctl"
    }
  }
}
