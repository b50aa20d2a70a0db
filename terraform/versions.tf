terraform {
  # use_lockfile, the lock in the bucket itself, came with 1.10 in both Terraform and OpenTofu.
  required_version = ">= 1.10.0"

  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "5.100.0"
    }
  }

  # Bucket, key and region are given at init: platformctl does that.
  backend "s3" {}
}
