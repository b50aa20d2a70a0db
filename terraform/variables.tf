# platformctl writes each of these from environments/NAME.tfvars, where defaults and meanings are documented. They are
# checked there too; here for whoever runs Terraform by hand. None of them is secret.

variable "platform" {
  description = "The platform's name, part of the names of what is global in the account."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])*$", var.platform)) && length(var.platform) <= 24
    error_message = "Up to 24 lower-case letters, digits and single hyphens, from a letter."
  }
}

variable "environment" {
  description = "The environment's name."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z](-?[a-z0-9])*$", var.environment)) && length(var.environment) <= 24
    error_message = "Up to 24 lower-case letters, digits and single hyphens, from a letter."
  }
}

variable "aws_account" {
  description = "The account: its 12 digits or its alias."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^([0-9]{12}|[a-z0-9](-?[a-z0-9]){2,62})$", var.aws_account))
    error_message = "12 digits, or an alias: 3 to 63 lower-case letters, digits and single hyphens."
  }
}

variable "aws_region" {
  description = "The region."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z]{2}(-[a-z]+)+-[0-9]+$", var.aws_region))
    error_message = "A region looks like eu-west-1."
  }
}

variable "aws_endpoint_url" {
  description = "Where AWS's services are, if not at AWS's own addresses."
  type        = string
  default     = null

  validation {
    condition     = var.aws_endpoint_url == null || can(regex("^https?://[^/]+", var.aws_endpoint_url))
    error_message = "A URL, http or https."
  }
}

variable "availability_zones" {
  description = "The zones that machines are spread over; empty for the first three of the region."
  type        = list(string)
  default     = []
  nullable    = false

  validation {
    condition     = alltrue([for zone in var.availability_zones : can(regex("^${var.aws_region}[a-h]$", zone))])
    error_message = "Each zone is one of the region, like eu-west-1a."
  }
  validation {
    condition     = length(distinct(var.availability_zones)) == length(var.availability_zones)
    error_message = "A zone is there twice."
  }
}

variable "vpc_cidr" {
  description = "The network of the machines. Each group has a sixteenth of it, or a /24, in each zone."
  type        = string
  default     = "10.100.0.0/16"
  nullable    = false

  validation {
    condition     = can(cidrhost(var.vpc_cidr, 0)) && try(tonumber(split("/", var.vpc_cidr)[1]) >= 16 && tonumber(split("/", var.vpc_cidr)[1]) <= 24, false)
    error_message = "An IPv4 network, /16 to /24."
  }
}

variable "kubeapi_access_list" {
  description = "Networks that may reach the API server."
  type        = set(string)
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.kubeapi_access_list : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "IPv4 networks in CIDR notation."
  }
}

variable "ssh_access_list" {
  description = "Networks that may reach ssh on the machines."
  type        = set(string)
  nullable    = false

  validation {
    condition     = alltrue([for cidr in var.ssh_access_list : can(cidrhost(cidr, 0)) && !strcontains(cidr, ":")])
    error_message = "IPv4 networks in CIDR notation."
  }
}

variable "secrets_bucket_name" {
  description = "The bucket of the releases. platformctl makes it; here it is only named in what the machines may do."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$", var.secrets_bucket_name))
    error_message = "The name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens."
  }
}

variable "kms_master_id" {
  description = "The KMS key that wraps each release's key: id, ARN or alias/NAME."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:(key|alias)/[A-Za-z0-9/_-]+|alias/[A-Za-z0-9/_-]+|[a-z0-9-]{36,})$", var.kms_master_id))
    error_message = "A key's id, an ARN, or alias/NAME."
  }
}

variable "dns_zone_name" {
  description = "The public Route 53 zone of the platform's names. It must be there."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^[a-z0-9-]+(\\.[a-z0-9-]+)+$", var.dns_zone_name))
    error_message = "A DNS name of two labels or more, without the final dot."
  }
}

variable "coreos_image" {
  description = "The Flatcar image: its id or its name."
  type        = string
  nullable    = false

  validation {
    condition     = can(regex("^(ami-[0-9a-f]{8,17}|.{3,128})$", var.coreos_image))
    error_message = "ami-…, or a name of 3 to 128 characters."
  }
}

variable "image_owners" {
  description = "Whose images an image's name is looked for among: your own account, and Flatcar's."
  type        = list(string)
  default     = ["self", "075585003325"]
  nullable    = false

  validation {
    condition     = length(var.image_owners) > 0 && alltrue([for owner in var.image_owners : can(regex("^(self|[0-9]{12})$", owner))])
    error_message = "At least one: self, or an account's 12 digits."
  }
}

variable "ssh_public_key" {
  description = "The public half of the key pair, for the user core."
  type        = string
  nullable    = false

  validation {
    condition     = startswith(var.ssh_public_key, "ssh-")
    error_message = "A line of authorized_keys. The private half has no place here."
  }
}

variable "groups" {
  description = "The groups by name: secure runs etcd and the control plane."
  type = object({
    secure = object({
      flavor       = string
      min          = number
      max          = number
      grace_period = number
      volume_gb    = number
      user_data    = string
    })
    compute = object({
      flavor       = string
      min          = number
      max          = number
      grace_period = number
      volume_gb    = number
      user_data    = string
    })
  })
  nullable = false

  validation {
    condition     = contains([1, 3, 5, 7], var.groups.secure.min)
    error_message = "The secure group's minimum is the number of etcd members: 1, 3, 5 or 7."
  }
  validation {
    condition     = alltrue([for group in values(var.groups) : group.min >= 0 && group.min <= group.max])
    error_message = "A group's minimum is more than its maximum."
  }
  validation {
    condition     = alltrue([for group in values(var.groups) : group.grace_period >= 0 && group.volume_gb >= 10])
    error_message = "A grace period is negative, or a volume has fewer than 10 GiB."
  }
  validation {
    condition     = alltrue([for group in values(var.groups) : alltrue([for n in [group.min, group.max, group.grace_period, group.volume_gb] : n == floor(n)])])
    error_message = "Sizes and grace periods are whole numbers."
  }
  validation {
    condition     = alltrue([for group in values(var.groups) : can(regex("^[a-z0-9-]+\\.[a-z0-9-]+$", group.flavor))])
    error_message = "A flavor is an instance type, like t3.medium."
  }
  validation {
    # EC2's limit is 16,384 bytes before base64, which makes four of three.
    condition     = alltrue([for group in values(var.groups) : length(base64gzip(group.user_data)) <= 21844])
    error_message = "A group's user data has 16 KiB or more compressed."
  }
}

variable "destroying" {
  description = "Whether everything is about to be destroyed: then the key, the zone and the image may be gone already."
  type        = bool
  default     = false
  nullable    = false
}
