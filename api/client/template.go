package client

import (
	"context"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
)

// WarmImage makes the template of an image and a shape, if there is none, and
// waits for it. Cancelling ctx undoes it. progress is called for each step.
func (c *Client) WarmImage(ctx context.Context, req *bangerv1.WarmImageRequest, progress func(*bangerv1.Progress)) (*bangerv1.Template, error) {
	stream, err := c.rpc.WarmImage(ctx, connect.NewRequest(req))
	if err != nil {
		return nil, decode(ctx, err)
	}
	defer stream.Close()
	var made *bangerv1.Template
	for stream.Receive() {
		switch event := stream.Msg().Event.(type) {
		case *bangerv1.WarmImageResponse_Progress:
			progress(event.Progress)
		case *bangerv1.WarmImageResponse_Template:
			made = event.Template
		}
	}
	if err := stream.Err(); err != nil {
		return nil, decode(ctx, err)
	}
	if made == nil {
		return nil, banger.Errorf(banger.CodeUnavailable, "the daemon ended in the middle of its work").
			WithHint("banger daemon logs")
	}
	return made, nil
}

// ListTemplates returns the templates, the one used last first. With verify the
// daemon reads all of each, and says which are damaged.
func (c *Client) ListTemplates(ctx context.Context, verify bool) ([]*bangerv1.Template, error) {
	res, err := unary(ctx, c.rpc.ListTemplates, &bangerv1.ListTemplatesRequest{Verify: verify})
	return res.GetTemplates(), err
}

// PruneTemplates removes the templates that no VM can be started from any more,
// or as many as the request says, and returns them.
func (c *Client) PruneTemplates(ctx context.Context, req *bangerv1.PruneTemplatesRequest) ([]*bangerv1.Template, error) {
	res, err := unary(ctx, c.rpc.PruneTemplates, req)
	return res.GetRemoved(), err
}
