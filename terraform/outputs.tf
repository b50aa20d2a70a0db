output "api_endpoint" {
  description = "The API server for operators."
  value       = "https://${aws_route53_record.api_public.name}:${local.api_port}"
}

output "api_internal_endpoint" {
  description = "The API server within the VPC."
  value       = "https://${aws_route53_record.api_internal.name}:${local.api_port}"
}

output "asg_names" {
  description = "Each group's auto-scaling group."
  value = {
    secure  = aws_autoscaling_group.secure.name
    compute = aws_autoscaling_group.compute.name
  }
}

output "launch_template_ids" {
  description = "Each group's launch template."
  value       = { for group, template in aws_launch_template.machine : group => template.id }
}

output "role_arns" {
  description = "Each group's IAM role."
  value       = { for group, role in aws_iam_role.machine : group => role.arn }
}

output "load_balancer_names" {
  description = "The load balancers' own DNS names."
  value = {
    public   = aws_lb.api_public.dns_name
    internal = aws_lb.api_internal.dns_name
  }
}

output "vpc_id" {
  description = "The network."
  value       = aws_vpc.this.id
}
