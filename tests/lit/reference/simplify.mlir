// RUN: mlcflow opt %s --pipeline=reference --until=simplify | filecheck %s

// One function is left; scalars are tensors of rank 0; every border has a name.
// CHECK-NOT: @double
// CHECK: func.func @main(%{{.*}}: tensor<4xf32> {{{.*}}mlcflow.input = "arg0"}
// CHECK-SAME: tensor<f32> {{{.*}}mlcflow.input = "arg1"}
// CHECK-SAME: tensor<6xf32> {mlcflow.output = "0"}, tensor<f32> {mlcflow.output = "1"}
// CHECK-NOT: call
// CHECK: arith.addf
// CHECK-NOT: arith.addf
// CHECK-NOT: tensor.pad
// CHECK: tensor.from_elements
// CHECK: return

func.func private @double(%x: f32) -> f32 {
  %y = arith.addf %x, %x : f32
  return %y : f32
}

func.func @main(%x: tensor<4xf32>, %s: f32) -> (tensor<6xf32>, f32) {
  %a = func.call @double(%s) : (f32) -> f32
  %b = func.call @double(%s) : (f32) -> f32
  %c = arith.mulf %a, %b : f32
  %p = tensor.pad %x low[1] high[1] {
  ^bb0(%i: index):
    tensor.yield %s : f32
  } : tensor<4xf32> to tensor<6xf32>
  return %p, %c : tensor<6xf32>, f32
}
