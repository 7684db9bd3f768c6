package daemon

import (
	"context"

	"connectrpc.com/connect"

	banger "github.com/banger-dev/banger"
	bangerv1 "github.com/banger-dev/banger/api/banger/v1"
	"github.com/banger-dev/banger/internal/template"
)

// WarmImage makes the template of an image and a shape.
func (a api) WarmImage(ctx context.Context, req *connect.Request[bangerv1.WarmImageRequest], out *connect.ServerStream[bangerv1.WarmImageResponse]) error {
	made, err := a.d.warm(ctx, req.Msg, &reporter{send: func(e *bangerv1.VMProgress) error {
		return out.Send(&bangerv1.WarmImageResponse{Event: &bangerv1.WarmImageResponse_Progress{Progress: e.GetProgress()}})
	}})
	if err != nil {
		return err
	}
	return out.Send(&bangerv1.WarmImageResponse{Event: &bangerv1.WarmImageResponse_Template{Template: made}})
}

// ListTemplates lists the templates.
func (a api) ListTemplates(ctx context.Context, req *connect.Request[bangerv1.ListTemplatesRequest]) (*connect.Response[bangerv1.ListTemplatesResponse], error) {
	all, err := a.d.templates.list(ctx, req.Msg.Verify)
	return connect.NewResponse(&bangerv1.ListTemplatesResponse{Templates: all}), err
}

// PruneTemplates removes templates.
func (a api) PruneTemplates(ctx context.Context, req *connect.Request[bangerv1.PruneTemplatesRequest]) (*connect.Response[bangerv1.PruneTemplatesResponse], error) {
	removed, err := a.d.templates.prune(ctx, req.Msg)
	return connect.NewResponse(&bangerv1.PruneTemplatesResponse{Removed: removed}), err
}

// warm makes the template of an image, and whatever it needs for that.
func (d *Daemon) warm(ctx context.Context, req *bangerv1.WarmImageRequest, r *reporter) (*bangerv1.Template, error) {
	rec, err := d.plan(&bangerv1.CreateVMRequest{
		Image: req.Image, Vcpu: req.Vcpu, MemoryMib: req.MemoryMib, DiskBytes: req.DiskBytes, OverlayBytes: req.OverlayBytes,
	})
	if err != nil {
		return nil, err
	}
	kernel, err := d.decideAccel(ctx, &rec, r)
	if err != nil {
		return nil, err
	}
	if kernel, err = d.ensureKernel(ctx, kernel, rec.Kernel, r); err != nil {
		return nil, err
	}
	image, err := d.opts.Assets.Image(ctx, rec.Image, r.progress)
	if err != nil {
		return nil, err
	}
	want, err := d.templates.recipe(ctx, rec, image, *kernel)
	if err != nil {
		return nil, noTemplate(rec.Image, err)
	}
	if err := d.templates.ensure(ctx, want, r); err != nil {
		return nil, err
	}
	made, ok := d.templates.store.Find(want.key)
	if !ok {
		return nil, banger.Errorf(banger.CodeFailed, "the template of image %q was removed or damaged as soon as it was made", rec.Image).
			WithHint("banger image warm %s", rec.Image)
	}
	d.spares.noted(&firstRun{recipe: want})
	d.spares.look()
	return d.templates.proto(made, true), nil
}

// noTemplate is the error for an image that no template can be made of here.
func noTemplate(image string, err error) error {
	if _, ok := err.(*banger.Error); ok {
		return err
	}
	return banger.Errorf(banger.CodeUnavailable, "image %q can have no template here: %w", image, err).WithHint("banger doctor")
}

// list returns the templates, the one used last first; with verify all of them
// is read.
func (t *templates) list(ctx context.Context, verify bool) ([]*bangerv1.Template, error) {
	all, err := t.store.List()
	if err != nil {
		return nil, err
	}
	var out []*bangerv1.Template
	for _, found := range all {
		if verify {
			if found.Damaged, err = template.Verify(ctx, found); err != nil {
				return nil, err
			}
		}
		out = append(out, t.proto(found, t.current(ctx, found)))
	}
	return out, ctx.Err()
}

// prune removes the templates that are not current, damaged ones among them, or
// all.
func (t *templates) prune(ctx context.Context, req *bangerv1.PruneTemplatesRequest) ([]*bangerv1.Template, error) {
	found, err := t.list(ctx, req.Verify)
	if err != nil {
		return nil, err
	}
	var removed []*bangerv1.Template
	for _, one := range found {
		if one.Current && !req.All {
			continue
		}
		if err := t.store.Remove(one.Key); err != nil {
			return nil, banger.Errorf(banger.CodeFailed, "template %s is not removed: %w", banger.ShortID(one.Key), err).
				WithHint("banger template prune --all")
		}
		removed = append(removed, one)
	}
	t.d.spares.look() // what waits of them goes too
	return removed, nil
}

// current reports whether a new VM would start from the template: everything
// that it was made of is what it was, and so is it. It fetches nothing.
func (t *templates) current(ctx context.Context, found template.Template) bool {
	if found.Damaged != "" {
		return false
	}
	now := found.Inputs
	digest, err := t.d.localDigest(found.Image)
	if err != nil {
		return false
	}
	now.ImageDigest = digest
	if local, err := t.d.opts.Assets.KernelLocal(found.Kernel); err != nil || !local {
		return false
	}
	kernel, err := t.d.opts.Assets.Kernel(ctx, found.Kernel, func(banger.Progress) {})
	if err != nil {
		return false
	}
	now.KernelSHA256, now.Initramfs = kernel.SHA256, initramfsName(kernel)
	if now.Fingerprint, err = t.fingerprint(ctx, found.Driver, found.Accel); err != nil {
		return false
	}
	return now.Key() == found.Key
}

// localDigest is the id of an image that is here; empty if it is not.
func (d *Daemon) localDigest(name string) (string, error) {
	images, err := d.opts.Assets.Images(false)
	if err != nil {
		return "", err
	}
	for _, image := range images {
		if image.Name == name {
			return image.Id, nil
		}
	}
	return "", nil
}

func (ts *templates) proto(t template.Template, current bool) *bangerv1.Template {
	return &bangerv1.Template{
		Spares: int32(ts.d.spares.waiting(t.Key)),
		Key:    t.Key, Image: t.Image, Kernel: t.Kernel, Vcpu: int32(t.VCPU), MemoryMib: t.MemoryMiB,
		DiskBytes: t.DiskBytes, OverlayBytes: t.OverlayBytes, Driver: t.Driver, Accel: t.Accel,
		SizeBytes: t.Size, CreatedUnixMs: t.Created.UnixMilli(), UsedUnixMs: t.Used.UnixMilli(), Current: current,
		Damaged: t.Damaged,
	}
}
