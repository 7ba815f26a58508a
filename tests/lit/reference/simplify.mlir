// RUN: mlcflow opt %s --pipeline=reference --until=simplify | filecheck %s

// CHECK: func.func @main
func.func @main(%x: tensor<4xf32>) -> tensor<4xf32> {
  return %x : tensor<4xf32>
}
