package client

import (
	"context"

	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// GetPolicy returns what a VM may reach.
func (c *Client) GetPolicy(ctx context.Context, ref string) (*bangerv1.GetPolicyResponse, error) {
	return unary(ctx, c.rpc.GetPolicy, &bangerv1.GetPolicyRequest{Ref: ref})
}

// SetPolicy replaces it; when it returns without an error a VM that runs is under
// it.
func (c *Client) SetPolicy(ctx context.Context, req *bangerv1.SetPolicyRequest) (*bangerv1.SetPolicyResponse, error) {
	return unary(ctx, c.rpc.SetPolicy, req)
}

// CheckPolicy decides a connection to target (HOST:PORT) that nobody makes.
func (c *Client) CheckPolicy(ctx context.Context, ref, target string) (*bangerv1.CheckPolicyResponse, error) {
	return unary(ctx, c.rpc.CheckPolicy, &bangerv1.CheckPolicyRequest{Ref: ref, Target: target})
}

// SuggestPolicy returns the policy that a VM's log asks for.
func (c *Client) SuggestPolicy(ctx context.Context, ref string) (*bangerv1.SuggestPolicyResponse, error) {
	return unary(ctx, c.rpc.SuggestPolicy, &bangerv1.SuggestPolicyRequest{Ref: ref})
}
